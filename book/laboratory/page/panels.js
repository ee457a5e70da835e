// The panels of the laboratory: what each shows of a run.

import { INK, PALETTE, draw, short } from "./chart.js";
import { plane } from "./plane.js";
import { extent, thin } from "./series.js";

const WINDOW = 80; // steps in view of the oscillation
const KERNEL = 8; // width of the optimizer's average, in steps

const steps = (rows) => rows.map((row) => row.step);
const series = (rows, process, name) => rows.map((row) => row[process]?.[name] ?? null);

/** A series of a flow, where it is to be trusted and where it is not. */
function flow(rows, process, name, style) {
  const x = steps(rows),
    y =
      typeof name === "function"
        ? rows.map((row) => (row[process] ? (name(row[process]) ?? null) : null))
        : series(rows, process, name);
  const doubt = rows.map((row) => Boolean(row[process]?.doubt));
  const split = (wanted) => y.map((v, i) => (doubt[i] === wanted || (wanted && doubt[i + 1]) ? v : null));
  return [
    { x, y: split(true), ...style, color: INK.doubt },
    { x, y: split(false), ...style },
  ];
}

/** Gaussian average over neighbouring steps, of a series at the steps x. */
function smooth(x, y) {
  const apart = x.length > 1 ? x[1] - x[0] : 1,
    reach = Math.ceil((3 * KERNEL) / apart);
  const weights = Array.from({ length: reach + 1 }, (_, d) => Math.exp(-((d * apart) ** 2) / (2 * KERNEL * KERNEL)));
  return y.map((_, i) => {
    let sum = 0,
      total = 0;
    for (let d = -reach; d <= reach; d++) {
      const v = y[i + d];
      if (v === undefined || v === null) continue;
      const weight = weights[Math.abs(d)];
      sum += weight * v;
      total += weight;
    }
    return total ? sum / total : null;
  });
}

const name = (view) => view.names[view.settings.optimizer];
const end = (view) => Math.max(60, view.rows.length - 1, view.ghost?.length ?? 0);

export const PANELS = {
  loss: {
    title: "Training loss",
    legend: (view) => [
      [INK.average, `${name(view)}, with its average`],
      [INK.central, "predicted by the central flow"],
      [INK.central, "at the flow’s weights", true],
      [INK.stable, "stable flow"],
      ...(view.ablated ? [[INK.ablated, "without penalty"]] : []),
      ...(view.ghost ? [[INK.ghost, "last run"]] : []),
    ],
    draw(canvas, view) {
      const rows = thin(view.rows),
        ghost = view.ghost && thin(view.ghost),
        x = steps(rows),
        loss = series(rows, "optimizer", "loss"),
        predicted = series(rows, "central", "predicted_loss");
      const shown = [loss, predicted, series(rows, "central", "loss"), ghost ? series(ghost, "optimizer", "loss") : []];
      const log = shown.flat().every((v) => v === null || v > 0);
      let [low, high] = extent(shown);
      const first = Math.max(loss[0], ghost?.[0]?.optimizer.loss ?? 0, 1e-12);
      if (log) [low, high] = [Math.max(low / 1.3, first * 1e-9), Math.min(high * 1.2, first * 1e3)];
      else
        [low, high] = [
          low - 0.05 * (high - low || 1),
          Math.min(high, low + 1e3 * Math.abs(first)) + 0.05 * (high - low || 1),
        ];
      draw(canvas, {
        x: [0, end(view)],
        y: [low, high],
        log,
        marks: view.marks,
        curves: [
          ...(ghost
            ? [
                {
                  x: steps(ghost),
                  y: smooth(steps(ghost), series(ghost, "optimizer", "loss")),
                  color: INK.ghost,
                  width: 2,
                },
              ]
            : []),
          { x, y: loss, color: INK.average, width: 1, alpha: 0.5 },
          { x, y: smooth(x, loss), color: INK.average, width: 4 },
          { x, y: series(rows, "stable", "loss"), color: INK.stable },
          ...flow(rows, "central", "loss", { color: INK.central, dash: [2, 3], width: 1.2 }),
          ...flow(rows, "ablated", "predicted_loss", { color: INK.ablated, dash: [6, 3] }),
          ...flow(rows, "central", "predicted_loss", { color: INK.central, width: 1.6 }),
        ],
      });
    },
  },
  spectrum: {
    title: "Eigenvalues of P⁻¹H",
    legend: (view) => [
      [PALETTE[0], "central flow, the largest four"],
      [INK.optimizer, `${name(view)}, at midpoints`, "dots"],
      [INK.stable, "stable flow"],
      ...(view.ghost ? [[INK.ghost, "last run"]] : []),
    ],
    draw(canvas, view) {
      const rows = thin(view.rows),
        ghost = view.ghost && thin(view.ghost),
        x = steps(rows);
      const seen = thin(view.rows.filter((row) => row.optimizer?.eigenvalues));
      const edge = rows[0]?.threshold ?? 2; // eigenvalues of the last run are to the same scale, as shares of its edge
      const of = (list, process, j) =>
        list.map((row) => ((row[process]?.eigenvalues?.[j] ?? NaN) * edge) / row.threshold);
      const highest = extent([of(rows, "central", 0), of(seen, "optimizer", 0)])[1];
      const high = Math.min(2 * edge, Math.max(1.3 * edge, 1.05 * highest));
      draw(canvas, {
        x: [0, end(view)],
        y: [0, high],
        lines: [edge],
        labels: [{ x: end(view), y: edge, text: `edge of stability: ${short(edge)}`, under: true }],
        marks: view.marks,
        curves: [
          ...(ghost ? [{ x: steps(ghost), y: of(ghost, "central", 0), color: INK.ghost, width: 2 }] : []),
          { x, y: of(rows, "stable", 0), color: INK.stable },
          ...[1, 0].map((j) => ({
            x: steps(seen),
            y: of(seen, "optimizer", j),
            color: INK.optimizer,
            dots: j ? 1.6 : 2.2,
          })),
          ...[3, 2, 1, 0].flatMap((j) =>
            flow(rows, "central", (p) => p.eigenvalues?.[j], { color: PALETTE[j], width: 1.8 }),
          ),
        ],
      });
    },
  },
  steps: {
    title: "Effective step size",
    legend: (view) => [
      [INK.average, name(view)],
      [INK.central, "central flow"],
      ...(view.ablated ? [[INK.ablated, "without penalty"]] : []),
    ],
    draw(canvas, view) {
      const rows = thin(view.rows),
        x = steps(rows),
        count = view.dim || 1;
      const of = (process) => rows.map((row) => (row[process]?.p_sum ? count / row[process].p_sum : null)); // harmonic mean
      const [low, high] = extent([of("optimizer"), of("central"), of("ablated")], 0);
      draw(canvas, {
        x: [0, end(view)],
        y: [low / 1.3, high * 1.3],
        log: true,
        marks: view.marks,
        curves: [
          { x, y: of("optimizer"), color: INK.average, width: 4 },
          ...flow(rows, "ablated", (p) => p.p_sum && count / p.p_sum, { color: INK.ablated, dash: [6, 3] }),
          ...flow(rows, "central", (p) => p.p_sum && count / p.p_sum, { color: INK.central, width: 1.6 }),
        ],
      });
    },
  },
  fit: {
    title: "The fit",
    legend: (view) =>
      view.curve
        ? [
            [INK.text, "points", "dots"],
            [INK.optimizer, name(view)],
            [INK.central, "central flow"],
            ...(view.curve.ablated ? [[INK.ablated, "without penalty"]] : []),
          ]
        : [
            [INK.optimizer, name(view)],
            [INK.central, "central flow"],
          ],
    draw(canvas, view) {
      const { curve, data, targets, rows } = view;
      if (!curve) return plane(canvas, view);
      const [low, high] = extent([targets, [-1.2, 1.2]]);
      draw(canvas, {
        x: [-1.1, 1.1],
        y: [low, high],
        xlabel: "",
        curves: [
          ...(curve.ablated ? [{ x: data.fine, y: [...curve.ablated], color: INK.ablated, dash: [6, 3] }] : []),
          ...(curve.central
            ? [
                {
                  x: data.fine,
                  y: [...curve.central],
                  color: rows.at(-1)?.central?.doubt ? INK.doubt : INK.central,
                  width: 1.6,
                },
              ]
            : []),
          ...(curve.optimizer ? [{ x: data.fine, y: [...curve.optimizer], color: INK.optimizer, width: 1.6 }] : []),
          { x: data.inputs, y: targets, color: INK.text, dots: 3 },
          ...(view.chosen === null
            ? []
            : [{ x: [data.inputs[view.chosen]], y: [targets[view.chosen]], color: INK.stable, dots: 6 }]),
        ],
      });
    },
  },
  displacement: {
    title: "Displacement along v₁",
    legend: (view) => [
      [INK.optimizer, `${name(view)} from the flow, v₁ᵀP(wₜ − w)`],
      ["#9a9a9a", "predicted standard deviation", "band"],
    ],
    draw(canvas, { rows }) {
      const last = rows.at(-1)?.step ?? 0,
        seen = rows.slice(Math.max(0, last - WINDOW));
      const x = steps(seen),
        deviation = seen.map((row) => Math.sqrt(row.central?.variances?.[0] ?? 0));
      const y = seen.map((row) => row.central?.displacement?.[0] ?? null);
      const all = rows.slice(-400);
      const sizes = all.flatMap(({ central }) => [
        Math.abs(central?.displacement?.[0] ?? 0),
        Math.sqrt(central?.variances?.[0] ?? 0),
      ]);
      const largest = Math.max(0, ...sizes),
        size = 1.15 * (largest || 1);
      draw(canvas, {
        x: [Math.max(0, last - WINDOW), Math.max(last, WINDOW)],
        y: [-size, size],
        labels: largest ? [] : [{ x: Math.max(0, last - WINDOW), y: 0, text: "Nothing oscillates yet." }],
        curves: [
          { x, low: deviation.map((s) => -s), high: deviation, color: "#9a9a9a", alpha: 0.35 },
          { x, y: deviation, color: INK.central, dash: [5, 4], width: 1 },
          { x, y: deviation.map((s) => -s), color: INK.central, dash: [5, 4], width: 1 },
          { x, y, color: INK.optimizer, width: 1 },
          { x, y, color: INK.optimizer, dots: 2 },
        ],
      });
    },
  },
  nu: {
    title: "ν at some weights",
    legend: (view) => [
      [PALETTE[1], name(view)],
      [INK.central, "central flow", true],
    ],
    draw(canvas, view) {
      const rows = thin(view.rows),
        x = steps(rows),
        count = rows[0]?.optimizer?.nu?.length ?? 0;
      const chosen = [...new Set([0, Math.floor(count / 3), Math.floor((2 * count) / 3), count - 1])].filter(
        (j) => j >= 0,
      );
      const of = (process, j) => rows.map((row) => row[process]?.nu?.[j] || null);
      const [low, high] = extent(
        chosen.flatMap((j) => [of("optimizer", j), of("central", j)]),
        0,
      );
      draw(canvas, {
        x: [0, end(view)],
        y: [low / 1.5, high * 1.5],
        log: low > 0,
        labels: view.settings.optimizer === "gd" ? [{ x: 0, y: high / 2, text: "Gradient descent has no ν." }] : [],
        curves: chosen.flatMap((j, i) => [
          { x, y: of("optimizer", j), color: PALETTE[i], width: 3, alpha: 0.55 },
          ...flow(rows, "central", (p) => p.nu?.[j] || null, { color: INK.central, dash: [2, 2], width: 1.2 }),
        ]),
      });
    },
  },
};
