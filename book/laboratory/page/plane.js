// With two weights: their plane.

import { INK, draw } from "./chart.js";
import { extent } from "./series.js";

/** Level lines of a loss of two weights: y(x) for the valley, an ellipse for the bowl. */
function levels({ settings, data }, [left, right], [low, high]) {
  const turn = (n, of) => Array.from({ length: n + 1 }, (_, i) => of(i / n));
  if (settings.loss === "bowl") {
    const [[a, b], [, d]] = data.bowl.hessian;
    return turn(7, (share) => {
      const angles = turn(90, (t) => 2 * Math.PI * t);
      const size = angles.map(
        (t) =>
          (0.15 + share) /
          Math.sqrt((a * Math.cos(t) ** 2 + 2 * b * Math.cos(t) * Math.sin(t) + d * Math.sin(t) ** 2) / 2),
      );
      return { x: angles.map((t, i) => size[i] * Math.cos(t)), y: angles.map((t, i) => size[i] * Math.sin(t)) };
    });
  }
  const { slope } = data.valley,
    x = turn(80, (t) => left + t * (right - left)),
    wide = Math.max(left ** 2, right ** 2);
  const [least, most] = [-slope * high, (high * wide) / 2 - slope * high];
  return turn(12, (share) => least + share * share * (most - least)).map((level) => ({
    x,
    y: x.map((x) => level / ((x * x) / 2 - slope)).map((y) => (y > low - 1 && y < high + 1 ? y : null)),
  }));
}

/** With two weights: their plane, level lines of the loss, and the ways that optimizer and flow have gone. */
export function plane(canvas, view) {
  const { rows, settings } = view;
  const way = (process, j) => rows.map((row) => row[process]?.w?.[j] ?? null);
  const valley = settings.loss === "valley";
  const around = (lists, [low, high]) => {
    const [a, b] = extent([...lists, [low, high]]);
    return [Math.max(a, low - 2 * (high - low)), Math.min(b, high + 2 * (high - low))];
  };
  const x = around([way("optimizer", 0), way("central", 0)], valley ? [-0.5, 0.5] : [-1, 1]);
  const y = around([way("optimizer", 1), way("central", 1)], valley ? [9.5, 10.5] : [-1, 1]);
  const ends = settings.optimizer === "gd" && valley ? [2 / (rows.at(-1)?.lr ?? settings.lr)] : [];
  draw(canvas, {
    x,
    y,
    xlabel: "first weight",
    lines: ends,
    labels: ends.map((y) => ({ x: x[0], y, text: "2/η" })),
    curves: [
      ...levels(view, x, y).map((level) => ({ ...level, color: INK.grid, width: 1 })),
      {
        x: way("optimizer", 0).slice(-150),
        y: way("optimizer", 1).slice(-150),
        color: INK.optimizer,
        width: 0.8,
        alpha: 0.5,
      },
      { x: way("optimizer", 0).slice(-30), y: way("optimizer", 1).slice(-30), color: INK.optimizer, dots: 2 },
      { x: way("central", 0), y: way("central", 1), color: INK.central, width: 2 },
      { x: way("central", 0).slice(-1), y: way("central", 1).slice(-1), color: INK.central, dots: 5 },
    ],
  });
}
