// Charts on a canvas: axes, curves, bands. In dark mode a filter of the style sheet turns their lightness round.

export const INK = {
  optimizer: "#0072B2",
  average: "#56B4E9",
  stable: "#D55E00",
  central: "#111111",
  ablated: "#7f7f00",
  threshold: "#8a8a8a",
  doubt: "#bbbbbb",
  ghost: "#c9b28a",
  text: "#222222",
  grid: "#e2e2e2",
};
/** The leading eigenvalues, and the directions of oscillation. */
export const PALETTE = ["#2D1160", "#B73779", "#F1605D", "#FEB078", "#721F81", "#8a8a8a"];

const ROOM = { left: 46, right: 14, top: 8, bottom: 26 };

/** Round numbers between two others. */
function ticks(low, high, count) {
  const rough = (high - low) / count,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((x) => x * power).find((x) => x >= rough * 0.999);
  const found = [];
  for (let x = Math.ceil(low / step - 1e-9) * step; x <= high + 1e-9 * step; x += step)
    found.push(Math.abs(x) < step / 1e6 ? 0 : x);
  return found;
}

const powers = "⁰¹²³⁴⁵⁶⁷⁸⁹";
const power = (x) => `10${x < 0 ? "⁻" : ""}${[...String(Math.abs(x))].map((d) => powers[d]).join("")}`;
export const short = (x) => {
  if (!Number.isFinite(x)) return "–";
  if (Math.abs(x) < 1e-12) return "0"; // rounding
  if (x !== 0 && (Math.abs(x) < 1e-3 || Math.abs(x) >= 1e5)) {
    const exponent = Math.floor(Math.log10(Math.abs(x)));
    return `${Number((x / 10 ** exponent).toFixed(1))}·${power(exponent)}`.replace("-", "−");
  }
  return String(Number(x.toPrecision(3))).replace("-", "−");
};

/**
 * @param {HTMLCanvasElement} canvas
 * @param {{x: number[], y: number[], log?: boolean, xlabel?: string, curves: object[], lines?: number[], labels?: object[]}} chart
 *   ranges of both axes; curves have `x`, `y` and `color`, and perhaps `width`, `dash`, `dots`, `alpha`, or `low` and
 *   `high` instead of `y` for a band; lines are horizontal, at some y
 */
export function draw(
  canvas,
  { x: [left, right], y: [low, high], log = false, xlabel = "step", curves, lines = [], labels = [], marks = [] },
) {
  const scale = window.devicePixelRatio || 1,
    { clientWidth: w, clientHeight: h } = canvas;
  if (!w || !h) return;
  if (canvas.width !== Math.round(w * scale) || canvas.height !== Math.round(h * scale)) {
    [canvas.width, canvas.height] = [Math.round(w * scale), Math.round(h * scale)];
  }
  const c = canvas.getContext("2d");
  c.setTransform(scale, 0, 0, scale, 0, 0);
  c.clearRect(0, 0, w, h);
  const [wide, tall] = [w - ROOM.left - ROOM.right, h - ROOM.top - ROOM.bottom];
  const of = log ? (y) => Math.log10(Math.max(y, 1e-300)) : (y) => y;
  const [bottom, top] = [of(low), of(high)];
  const X = (x) => ROOM.left + ((x - left) / (right - left || 1)) * wide;
  const Y = (y) => ROOM.top + (1 - (of(y) - bottom) / (top - bottom || 1)) * tall;
  canvas.scales = {
    X,
    Y,
    toX: (px) => left + ((px - ROOM.left) / wide) * (right - left),
    toY: (py) => low + (1 - (py - ROOM.top) / tall) * (high - low),
  };

  c.font = "11px system-ui, sans-serif";
  c.lineWidth = 1;
  c.strokeStyle = INK.grid;
  c.fillStyle = INK.text;
  c.textBaseline = "middle";
  c.textAlign = "right";
  const decades = log
    ? ticks(
        Math.ceil(bottom - 1e-9),
        Math.floor(top + 1e-9),
        Math.min(5, Math.max(1, Math.floor(top) - Math.ceil(bottom))),
      ).filter(Number.isInteger)
    : [];
  const within = (y) => y >= low && y <= high;
  const round = [1, 2, 5].flatMap((x) => [-1, 0, 1].map((d) => x * 10 ** (Math.floor(bottom) + d))).filter(within);
  const levels =
    log && decades.length > 1
      ? decades.map((d) => [10 ** d, power(d)])
      : (log && round.length > 1 ? round : ticks(low, high, 4).filter((y) => !log || y > 0)).map((y) => [y, short(y)]);
  for (const [y, name] of levels) {
    line([
      [left, y],
      [right, y],
    ]);
    c.fillText(name, ROOM.left - 5, Y(y));
  }
  c.textAlign = "center";
  c.textBaseline = "top";
  for (const x of ticks(left, right, Math.max(2, wide / 90))) c.fillText(short(x), X(x), h - ROOM.bottom + 4);
  c.textAlign = "right";
  c.fillText(xlabel, w - ROOM.right, h - 11);

  c.save();
  c.beginPath();
  c.rect(ROOM.left, ROOM.top - 2, wide, tall + 4);
  c.clip();
  c.strokeStyle = INK.threshold;
  c.setLineDash([5, 4]);
  for (const y of lines)
    line([
      [left, y],
      [right, y],
    ]);
  c.setLineDash([1, 3]);
  for (const x of marks)
    line([
      [x, low],
      [x, high],
    ]);
  for (const curve of curves) {
    c.globalAlpha = curve.alpha ?? 1;
    c.strokeStyle = c.fillStyle = curve.color;
    c.lineWidth = curve.width ?? 1.4;
    c.setLineDash(curve.dash ?? []);
    if (curve.low) band(curve);
    else if (curve.dots) dots(curve);
    else path(curve);
  }
  c.restore();
  c.globalAlpha = 1;
  c.setLineDash([]);
  c.fillStyle = INK.text;
  c.strokeStyle = "#ffffff";
  c.lineWidth = 3;
  c.lineJoin = "round";
  for (const { x, y, text, under = false } of labels) {
    // on a line, on its left, or under it, on its right; readable over curves
    [c.textAlign, c.textBaseline] = under ? ["right", "top"] : ["left", "bottom"];
    const at = [text, under ? X(x) - 3 : Math.max(X(x), ROOM.left) + 3, Y(y) + (under ? 4 : -1)];
    c.strokeText(...at);
    c.fillText(...at);
  }

  function line(points) {
    c.beginPath();
    points.forEach(([x, y], i) => (i ? c.lineTo(X(x), Y(y)) : c.moveTo(X(x), Y(y))));
    c.stroke();
  }
  function path({ x, y }) {
    c.beginPath();
    let down = false;
    for (let i = 0; i < x.length; i++) {
      const there = y[i] !== null && Number.isFinite(y[i]);
      if (there && down) c.lineTo(X(x[i]), Y(y[i]));
      else if (there) c.moveTo(X(x[i]), Y(y[i]));
      down = there;
    }
    c.stroke();
  }
  function dots({ x, y, dots: size }) {
    for (let i = 0; i < x.length; i++) {
      if (y[i] === null || !Number.isFinite(y[i])) continue;
      c.beginPath();
      c.arc(X(x[i]), Y(y[i]), size, 0, 7);
      c.fill();
    }
  }
  function band({ x, low: bottom, high: top }) {
    c.beginPath();
    for (let i = 0; i < x.length; i++) c.lineTo(X(x[i]), Y(top[i] ?? 0));
    for (let i = x.length - 1; i >= 0; i--) c.lineTo(X(x[i]), Y(bottom[i] ?? 0));
    c.fill();
  }
}
