// The book's interactive figures. Their data are in the page; Plotly is loaded when a figure is asked for.
(() => {
  const number = (x, digits = 2) => x.toFixed(digits).replace("-", "−");
  const small = (x) => x.toPrecision(2).replaceAll("-", "−").replace(/e(.*)/, " · 10^$1");

  const mark = (color) => `<span style="color:${color}">━</span>`;
  const block = (color) => `<span style="color:${color}">■</span>`;

  // ---- Two weights: preconditioned gradient descent on ½ wᵀHw with P = diag(1, p₂/p₁)/η ----

  /** Eigenvalues of P⁻¹H, the larger first, and its right eigenvectors of length 1, from P^-½ H P^-½. */
  function effective(H, p) {
    const [a, b, d] = [H[0][0] / p[0], H[0][1] / Math.sqrt(p[0] * p[1]), H[1][1] / p[1]];
    const [mean, radius, turn] = [(a + d) / 2, Math.hypot((a - d) / 2, b), Math.atan2(2 * b, a - d) / 2];
    const vectors = [turn, turn + Math.PI / 2].map((t) => {
      const q = [Math.cos(t) / Math.sqrt(p[0]), Math.sin(t) / Math.sqrt(p[1])];
      return q.map((x) => x / Math.hypot(...q));
    });
    return { values: [mean + radius, mean - radius], vectors };
  }

  function quadratic(page, data) {
    const reach = 1.6; // half the side of the plane
    const plane = page.plot("The plane of the two weights: level lines, iterates and eigenvectors");
    const readout = page.readout();
    const start = { ...data.controls, steps: data.steps };
    const range = (key, low, high, step) => [Math.min(low, start[key]), Math.max(high, start[key]), step];
    const controls = page.controls({
      lr: ["learning rate η", ...range("lr", 0.05, 1, 0.005), (x) => number(x, 3)],
      ratio: ["ratio p₂/p₁", ...range("ratio", 0.1, 3, 0.05), number],
      steps: ["steps", ...range("steps", 0, 0, 1), String],
      top: ["H along u", ...range("top", -0.5, 4, 0.01), number],
      low: ["H across u", ...range("low", -0.5, 4, 0.01), number],
      angle: ["direction of u", -90, 90, 1, (x) => `${number(x, 0)}°`],
    });
    const line = page.plot("What a step multiplies each component by, against its eigenvalue");
    const parts = page.plot("Components of the iterates along both eigenvectors, step by step");
    page.button("Start again", () => controls.set(start));

    function draw({ lr, ratio, steps, top, low, angle }) {
      const { ink, threshold } = page;
      const [c, s] = [Math.cos((angle * Math.PI) / 180), Math.sin((angle * Math.PI) / 180)];
      const off = (top - low) * c * s;
      const H = [[top * c * c + low * s * s, off], [off, top * s * s + low * c * c]];
      const { values, vectors: [q1, q2] } = effective(H, [1 / lr, ratio / lr]);
      const highest = top >= low ? [c, s] : [-s, c];

      const iterates = [data.w0];
      for (let i = 0; i < steps; i++) {
        const [x, y] = iterates[i];
        if (Math.hypot(x, y) > 1000 * reach) break; // far out of sight, and soon of what SVG can say
        iterates.push([x - lr * (H[0][0] * x + off * y), y - (lr / ratio) * (off * x + H[1][1] * y)]);
      }
      const det = q1[0] * q2[1] - q1[1] * q2[0];
      const components = [
        iterates.map(([x, y]) => (x * q2[1] - y * q2[0]) / det),
        iterates.map(([x, y]) => (q1[0] * y - q1[1] * x) / det),
      ];
      const colors = data.palette.slice(0, 2);

      const grid = Array.from({ length: 81 }, (_, i) => reach * (i / 40 - 1));
      const height = grid.map((y) => grid.map((x) => (H[0][0] * x * x + 2 * off * x * y + H[1][1] * y * y) / 2));
      const largest = Math.max(...height.flat().map(Math.abs));
      const through = (q, name, color, dash) => {
        const end = q.map((x) => (0.87 * reach * x) / Math.max(...q.map(Math.abs)));
        return [
          { x: [-3 * q[0], 3 * q[0]], y: [-3 * q[1], 3 * q[1]], mode: "lines", line: { color, dash, width: 1.5 } },
          { x: [end[0]], y: [end[1]], mode: "text", text: [name], textposition: end[0] > 0 ? "top left" : "top right",
            textfont: { color, size: 14 } },
        ];
      };
      page.draw(plane, [
        { type: "contour", x: grid, y: grid, z: height, showscale: false, line: { color: ink.grid, width: 1 },
          contours: { coloring: "none", start: -largest, end: largest, size: largest / 16 } },
        ...through(highest.map((x) => -x), "top of H", ink.faint, "dot"),
        ...through(q1, "q₁", colors[0]),
        ...through(q2, "q₂", colors[1]),
        { x: iterates.map((w) => w[0]), y: iterates.map((w) => w[1]), mode: "lines+markers",
          line: { color: ink.discrete, width: 0.8 },
          marker: { color: ink.discrete, line: { width: 0 },
            size: iterates.map((_, i) => (i === iterates.length - 1 ? 11 : 5)),
            opacity: iterates.map((_, i) => Math.max(0.25, 1 - (iterates.length - i) / 20)) } },
      ], {
        title: "iterates",
        xaxis: { title: "w₁", range: [-reach, reach], showgrid: false, constrain: "domain" },
        yaxis: { title: "w₂", range: [-reach, reach], showgrid: false, scaleanchor: "x", constrain: "domain",
          constraintoward: "top" },
      });

      const limit = Math.max(3, values[0] + 0.3);
      const least = Math.min(-0.3, values[1] - 0.3);
      const dtick = limit < 8 ? 1 : undefined;
      page.draw(line, [
        { x: [least, limit], y: [1 - least, 1 - limit], mode: "lines", line: { color: ink.faint, width: 1.5 } },
        { x: values, y: values.map((x) => 1 - x), mode: "markers+text", text: ["q₁", "q₂"],
          textposition: "top right", textfont: { color: colors, size: 14 }, marker: { color: colors, size: 11 } },
      ], {
        title: "a step multiplies by 1 − λ",
        xaxis: { title: "eigenvalue λ of P⁻¹H", range: [least, limit], dtick },
        yaxis: { range: [1 - limit, 1 - least], dtick },
        shapes: [
          { type: "rect", xref: "paper", x0: 0, x1: 1, y0: -1, y1: 1, fillcolor: ink.threshold, opacity: 0.18,
            line: { width: 0 } },
          { type: "line", x0: 2, x1: 2, yref: "paper", y0: 0, y1: 1, line: threshold },
        ],
        annotations: [{ xref: "paper", x: 0.02, y: -1, yanchor: "bottom", text: "shrinks", showarrow: false },
          { x: 2, yref: "paper", y: 1, xanchor: "left", yanchor: "top", text: "λ = 2", showarrow: false }],
      });

      page.draw(parts, [0, 1].map((j) => ({ y: components[j], mode: "lines+markers",
        line: { color: colors[j], width: 1 }, marker: { color: colors[j], size: 4 } })), {
        title: "components along q₁ and q₂",
        xaxis: { title: "step", range: [0, data.steps] },
        yaxis: { range: [-reach, reach] },
      });

      const [l1, l2] = values;
      const said = (x) =>
        x < 0 ? "grows without changing sign, down a slope"
        : x > 2 ? "jumps across the minimum and lands further out each time"
        : x > 1 ? "jumps across the minimum and lands nearer each time"
        : "shrinks";
      const apart = Math.acos(Math.min(1, Math.abs(q1[0] * highest[0] + q1[1] * highest[1]))) * (180 / Math.PI);
      readout(
        `λ₁ = ${number(l1, Math.abs(l1 - 2) < 0.01 ? 4 : 2)} is ${l1 > 2 ? "above" : "below"} 2.`,
        ` Along q₁ a step multiplies by ${number(1 - l1)}: that component ${said(l1)}. ` +
        `Along q₂, λ₂ = ${number(l2)}, it multiplies by ${number(1 - l2)}: that component ${said(l2)}. ` +
        (l1 > 0 ? `At η = ${number((2 * lr) / l1, 3)}, λ₁ is 2. ` : "") +
        `q₁ is ${number(apart, 0)}° from the direction in which the loss is most curved.`,
      );
    }
    controls.ondraw(draw);
    controls.set(start);
  }

  // ---- Two weights: the preconditioner that ν settles at, and what the learning rate makes of it ----

  /** P̄ for b = |g|/η, and P̂ for b = 0: the least p₁ + p₂ + b₁²/p₁ + b₂²/p₂ with H ⪯ 2P. */
  function settled(H, b) {
    const off = H[0][1] ** 2;
    const spare = [0, 1].map((i) => 2 * b[i] - H[i][i]);
    if (Math.min(...spare) >= 0 && spare[0] * spare[1] >= off) return b; // the least without the constraint obeys it
    if (off === 0) return [0, 1].map((i) => Math.max(b[i], H[i][i] / 2));
    // It is on the boundary, where 2p₁ = h₁₁ + t and 2p₂ = h₂₂ + h₁₂²/t. There the sum has one minimum over t.
    const point = (t) => [(H[0][0] + t) / 2, (H[1][1] + off / t) / 2];
    const slope = (t) => {
      const [one, two] = point(t).map((p, i) => 1 - (b[i] ? (b[i] / p) ** 2 : 0));
      return one * t - (two * off) / t;
    };
    let [low, high] = [1e-9 * Math.sqrt(off), 1e9 * Math.sqrt(off)];
    if (H[0][0] < 0) low = Math.max(low, -H[0][0]); // p₁ ≥ 0
    if (H[1][1] < 0) high = Math.min(high, -off / H[1][1]); // p₂ ≥ 0
    for (let i = 0; i < 100; i++) {
      const middle = Math.sqrt(low * high);
      if (slope(middle) < 0) low = middle;
      else high = middle;
    }
    return point(Math.sqrt(low * high));
  }

  function program(page, data) {
    const [least, most] = data.window;
    const plane = page.plot("The plane of p₁ and p₂: where an eigenvalue exceeds 2, and where both preconditioners are");
    const readout = page.readout();
    const start = { ...data.controls };
    const controls = page.controls({
      lr: ["learning rate η", 0.15, 3, 0.01, number],
      g1: ["gradient g₁", 0, 1.2, 0.01, number],
      g2: ["gradient g₂", 0, 1.2, 0.01, number],
      off: ["h₁₂ of the Hessian", -1.5, 1.5, 0.05, number],
    });
    const speeds = page.plot("Speed at which the loss falls, for three preconditioners");
    const parts = page.plot("What ν̄ is made of, at each of the two weights");
    page.button("Start again", () => controls.set(start));
    const [floor, walls] = ["#5a5a5a", "#c8c8c8"];

    function draw({ lr, g1, g2, off }) {
      const { ink } = page;
      const H = [[data.H[0][0], off], [off, data.H[1][1]]];
      const g = [g1, g2];
      const solved = (eta) => settled(H, g.map((x) => x / eta));
      const [bar, hat] = [solved(lr), settled(H, [0, 0])];
      const rates = Array.from({ length: 60 }, (_, i) => 10 ** (-1 + i / 29.5));
      const path = rates.map(solved);

      const edge = Array.from({ length: 200 }, (_, i) => H[0][0] / 2 + 10 ** (-3 + i / 45))
        .map((p) => [p, (H[1][1] + off ** 2 / (2 * p - H[0][0])) / 2]);
      const ends = [[H[0][0] / 2, 20], ...edge, [20, H[1][1] / 2], [20, 0], [0, 0], [0, 20]];
      const named = (name, p, color, size, textposition) => ({ x: [p[0]], y: [p[1]], mode: "markers+text", text: [name],
        textposition, textfont: { color, size: 17 }, marker: { color, size } });
      const trace = hat[0] + hat[1];
      const shut = { range: [least, most], showgrid: false, constrain: "domain" };
      page.draw(plane, [
        { x: ends.map((p) => p[0]), y: ends.map((p) => p[1]), mode: "lines", fill: "toself", fillcolor: "#e2e2e2",
          line: { color: "#777777", width: 1 } },
        { x: [0, trace], y: [trace, 0], mode: "lines", line: { color: ink["first-term"], width: 1.3 } },
        { x: path.map((p) => p[0]), y: path.map((p) => p[1]), mode: "lines", line: { color: ink.stationary, width: 1.5 } },
        named("P̂", hat, ink["first-term"], 12, "bottom left"),
        named("P̄", bar, ink.stationary, 12, "top right"),
      ], {
        title: "preconditioners: in the grey an eigenvalue exceeds 2",
        xaxis: { title: "p₁", ...shut },
        yaxis: { title: "p₂", ...shut, scaleanchor: "x", constraintoward: "top" },
      });

      const { values: [sharpness] } = effective(H, [1, 1]);
      const speed = (p) => g.reduce((sum, x, i) => sum + x ** 2 / p[i], 0);
      const base = speed([sharpness / 2, sharpness / 2]);
      const ratios = base ? [1, speed(bar) / base, speed(hat) / base] : [1, 0, 0];
      page.draw(speeds, [
        { type: "bar", orientation: "h", x: ratios, y: ["gradient descent", "P̄", "P̂"], width: 0.6,
          marker: { color: [ink.faint, ink.stationary, ink["first-term"]] },
          text: ratios.map((x) => number(x)), textposition: "outside", cliponaxis: false },
      ], {
        title: "speed, gradient descent's best = 1",
        xaxis: { range: [0, 1.2 * Math.max(...ratios)] },
        yaxis: { tickfont: { size: 12.5 } },
      });

      const share = g.map((x, i) => (bar[i] ? Math.min((x / lr / bar[i]) ** 2, 1) : 0));
      const names = ["weight 1", "weight 2"];
      page.draw(parts, [[share, floor], [share.map((x) => 1 - x), walls]].map(([y, color]) =>
        ({ type: "bar", x: names, y, width: 0.5, marker: { color } })), {
        title: `what ν̄ is made of: ${block(floor)} gradient, ${block(walls)} oscillation`,
        barmode: "stack",
        xaxis: { tickfont: { size: 12.5 } },
        yaxis: { range: [0, 1], tickformat: ".0%" },
      });

      const top = effective(H, bar).values[0];
      const away = Math.hypot(bar[0] - hat[0], bar[1] - hat[1]) / Math.hypot(...hat);
      const ratio = base ? speed(bar) / speed(hat) : 1;
      readout(
        top > 2 - 1e-6 ? "An eigenvalue is at 2: RMSProp oscillates." : `No eigenvalue is at 2: the largest is ${number(top)}.`,
        (top > 2 - 1e-6 ? "" : " The gradient alone makes ν̄, as if there were no curvature.") +
        ` P̄ differs from P̂ by ${number(100 * away, 0)} %. Under P̄ the loss falls at ${number(ratio)} times ` +
        `its speed under P̂, and at ${number(ratios[1])} times gradient descent's best.`,
      );
    }
    controls.ondraw(draw);
    controls.set(start);
  }

  // ---- A run: any step of training ----

  function training(page, data) {
    const around = 30; // steps to each side in the window of the oscillation
    const controls = page.controls({ step: ["step", 0, data.steps - 1, 1, String] });
    const loss = page.plot("Training loss of RMSProp, and what the central flow predicts, with the step marked");
    const spectrum = page.plot("Largest eigenvalues of the effective Hessian at this step, against 2");
    const waves = page.plot("Displacement of RMSProp from the central flow along the directions of oscillation");
    const scales = page.plot("ν of RMSProp against ν of the central flow, at the recorded weights");
    const readout = page.readout();
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) player();

    const logs = (rows) => rows.flat().filter(Boolean).map(Math.log10);
    const ends = (xs, room) => [Math.min(...xs) - room, Math.max(...xs) + room];
    const ranges = {
      eigenvalues: [0, 1.1 * Math.max(2, ...data.eigenvalues.flat(), ...data.flow_eigenvalues.flat())],
      displacements: 1.1 * Math.max(1e-9, ...[...data.displacements, ...data.deviations].flat().map(Math.abs)),
      nu: ends([...logs(data.nu), ...logs(data.flow_nu)], 0.3),
    };

    function player() {
      const button = page.button("Play", () => (timer ? stop() : play()));
      let timer;
      const stop = () => {
        timer = clearInterval(timer);
        button.textContent = "Play";
        readout.live(true);
      };
      const play = () => {
        if (controls.get().step >= data.steps - 1) controls.set({ step: 0 });
        button.textContent = "Pause";
        readout.live(false);
        timer = setInterval(() => {
          const step = controls.get().step + 1;
          controls.set({ step });
          if (step >= data.steps - 1) stop();
        }, 60);
      };
    }

    function draw({ step }) {
      const { ink, threshold } = page;
      const nearest = (index) => Math.abs(data.refreshes[index] - step);
      const look = data.refreshes.reduce((best, _, i) => (nearest(i) < nearest(best) ? i : best), 0);
      const steps = (xs) => xs.map((_, i) => i);
      const cursor = { type: "line", layer: "below", x0: step, x1: step, yref: "paper", y0: 0, y1: 1,
        line: { color: ink.threshold, width: 1.5 } };

      page.draw(loss, [
        { x: steps(data.loss), y: data.loss, mode: "lines", line: { color: ink.average, width: 4 } },
        { x: steps(data.loss), y: data.predicted, mode: "lines", line: { color: ink.central, width: 1.3 } },
        { x: [step], y: [data.predicted[step]], mode: "markers", marker: { color: ink.central, size: 9 } },
      ], {
        title: `loss: ${mark(ink.average)} RMSProp, ${mark(ink.central)} predicted`,
        xaxis: { title: "step", range: [0, data.steps - 1] },
        yaxis: { type: "log", dtick: 1 },
        shapes: [cursor],
      });

      const index = steps(data.eigenvalues[look]).map((i) => i + 1);
      page.draw(spectrum, [
        { x: [0, index.length + 1], y: [2, 2], mode: "lines", line: threshold },
        { x: index, y: data.flow_eigenvalues[look], mode: "markers",
          marker: { symbol: "line-ew", size: 26, line: { color: ink.central, width: 2.5 } } },
        { x: index, y: data.eigenvalues[look], mode: "markers", marker: { color: data.palette, size: 11 } },
      ], {
        title: "eigenvalues: ● RMSProp, ▬ flow",
        xaxis: { title: "largest first", range: [0.4, index.length + 0.6], dtick: 1 },
        yaxis: { range: ranges.eigenvalues },
      });

      const hue = (j) => data.palette[(2 * j) % data.palette.length]; // neighbours would be hard to tell apart
      const [from, to] = [Math.max(0, step - around), Math.min(data.steps, step + around + 1)];
      const window = Array.from({ length: to - from }, (_, i) => from + i);
      page.draw(waves, data.displacements.flatMap((values, j) => [
        ...[-1, 1].map((side) => ({ x: window, y: window.map((i) => side * data.deviations[j][i] || null),
          mode: "lines", line: { color: hue(j), dash: "dash", width: 1.2 } })),
        { x: window, y: window.map((i) => values[i]), mode: "lines+markers",
          line: { color: hue(j), width: 1 }, marker: { color: hue(j), size: 4 } },
      ]), {
        title: "displacement (dashed: predicted)",
        xaxis: { title: "step", range: [step - around, step + around] },
        yaxis: { range: [-ranges.displacements, ranges.displacements] },
        shapes: [cursor],
      });

      const corners = ranges.nu.map((x) => 10 ** x);
      const powers = { exponentformat: "power", tickfont: { size: 10 } };
      page.draw(scales, [
        { x: corners, y: corners, mode: "lines", line: { color: ink.threshold, width: 1.2 } },
        { x: data.flow_nu[look], y: data.nu[look], mode: "markers", marker: { color: ink.discrete, size: 8 } },
      ], {
        title: `ν at ${data.weights.length} weights`,
        xaxis: { title: "central flow", type: "log", range: ranges.nu, dtick: 2, ...powers },
        yaxis: { title: "RMSProp", type: "log", range: ranges.nu, dtick: 1, ...powers },
      });

      const oscillating = data.deviations.filter((values) => values[step]).length;
      readout(
        `Step ${step}.`,
        ` Loss ${small(data.loss[step])}; the flow predicts ${small(data.predicted[step])} on average. ` +
        `Largest eigenvalue at step ${data.refreshes[look]}: ${number(data.eigenvalues[look][0])} for RMSProp` +
        (data.flow_eigenvalues[look][0] === null ? ". " : `, ${number(data.flow_eigenvalues[look][0])} for the flow. `) +
        (oscillating
          ? `The flow predicts oscillation along ${oscillating} direction${oscillating > 1 ? "s" : ""}; along the first, ` +
            `RMSProp is ${small(data.displacements[0][step])} away, predicted deviation ${small(data.deviations[0][step])}.`
          : "The flow predicts no oscillation."),
      );
    }
    controls.ondraw(draw);
    controls.set({ step: data.start });
  }

  // ---- The page: elements, colours, loading ----

  function element(parent, tag, properties = {}, attributes = {}) {
    const made = Object.assign(document.createElement(tag), properties);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return parent.appendChild(made);
  }

  /** What a figure is made of: plots, sliders, a readout; drawn again when a slider moves. */
  function pageOf(root, data) {
    const panels = element(root, "div", { className: "panels" });
    const ink = { ...data.colors, text: "#222222", grid: "#dcdcdc", faint: "#767676" }; // on white; a filter in dark mode
    const threshold = { color: ink.threshold, dash: "dash", width: 1.5 };
    let box, redraw;

    function controls(options) {
      box = element(panels, "div", { className: "controls" });
      const sliders = Object.entries(options).map(([key, [label, min, max, step, show]]) => {
        const id = `${root.dataset.interactive}-${key}`;
        const control = element(box, "div", { className: "control" });
        element(control, "label", { htmlFor: id, textContent: label });
        const value = element(control, "span", {}, { "aria-hidden": true });
        const input = element(control, "input", { type: "range", id, min, max, step });
        const tell = () => {
          value.textContent = show(input.valueAsNumber);
          input.setAttribute("aria-valuetext", value.textContent);
        };
        input.addEventListener("input", () => { tell(); redraw(); });
        return [key, input, tell];
      });
      const get = () => Object.fromEntries(sliders.map(([key, input]) => [key, input.valueAsNumber]));
      const set = (values) => {
        for (const [key, input, tell] of sliders) {
          if (key in values) input.value = values[key];
          tell();
        }
        redraw();
      };
      const ondraw = (draw) => {
        let frame;
        redraw = () => { frame ??= requestAnimationFrame(() => { frame = undefined; draw(get()); }); };
      };
      return { get, set, ondraw };
    }

    function draw(plot, traces, { title, xaxis, yaxis, ...rest }) {
      const axis = ({ title = "", ...options }) =>
        ({ title: { text: title, standoff: 4 }, gridcolor: ink.grid, zeroline: false, automargin: true, ...options });
      return Plotly.react(plot, traces.map((trace) => ({ hoverinfo: "skip", ...trace })), {
        title: { text: title, x: 0, xref: "paper", font: { size: 13 }, y: 1, yref: "container", yanchor: "top", pad: { t: 6 } },
        margin: { l: 40, r: 10, t: 30, b: 36 },
        font: { color: ink.text, size: 11.5, family: getComputedStyle(root).fontFamily },
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, dragmode: false,
        xaxis: axis(xaxis), yaxis: axis(yaxis), ...rest,
      }, { staticPlot: true, responsive: true });
    }

    function readout() {
      const text = element(panels, "p", { className: "readout" }, { role: "status" });
      const say = (verdict, rest) => {
        text.replaceChildren(Object.assign(document.createElement("strong"), { textContent: verdict }), rest);
      };
      return Object.assign(say, { live: (on) => text.setAttribute("aria-live", on ? "polite" : "off") });
    }

    return {
      controls, ink, threshold, draw, readout,
      plot: (label) => element(panels, "div", { className: "plot" }, { role: "img", "aria-label": label }),
      button: (textContent, onclick) => element(box, "button", { type: "button", textContent, onclick }),
    };
  }

  function load(address) {
    return new Promise((resolve, reject) => {
      if (window.Plotly) resolve();
      else element(document.head, "script", { src: address, onload: resolve, onerror: reject });
    });
  }

  for (const root of document.querySelectorAll("[data-interactive]:not([data-ready])")) {
    root.dataset.ready = "no";
    const button = root.querySelector("button.load");
    const start = async () => {
      button.disabled = true;
      try {
        await load(root.dataset.plotly);
      } catch {
        button.disabled = false;
        button.textContent = "It could not be loaded: try again";
        return;
      }
      root.querySelector(".poster").remove();
      const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
      ({ quadratic, program, training })[root.dataset.interactive](pageOf(root, data), data);
      root.dataset.ready = "yes";
      return root;
    };
    button.addEventListener("click", async () => (await start())?.querySelector("input").focus());
    if (window.Plotly && !root.dataset.plotly) start();
  }
})();
