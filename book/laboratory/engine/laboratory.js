// A run: an optimizer and its flows side by side from one starting point, with changes on the way.

import { Network, Quadratic, Valley } from "./network.js";
import { optimizer } from "./optimizers.js";
import { Central, Discrete, Stable } from "./processes.js";
import { inner } from "./linear.js";

export const DEFAULTS = {
  problem: "network",
  width: 20,
  curve: "wave",
  seed: 0,
  optimizer: "rmsprop",
  lr: 3e-3,
  beta1: 0.9,
  beta2: 0.99,
  changes: [],
  targets: null,
};
const KEEP_EVERY = 100; // steps between two states that one can go back to
const COORDS = 6; // weights whose ν is recorded

/** The loss and the starting point that some settings name. */
export function problemOf(settings, data) {
  const { problem, width, curve, seed, targets } = settings;
  if (problem === "valley") return { f: new Valley(data.valley.slope), w: Float64Array.from(data.valley.start) };
  if (problem === "bowl") return { f: new Quadratic(data.bowl.hessian), w: Float64Array.from(data.bowl.start) };
  const w = Float64Array.from(data.weights[width][seed], Math.fround); // as PyTorch drew them, in single precision
  return { f: new Network([1, width, width, 1], data.inputs, curve === "drawn" ? targets : data.curves[curve]), w };
}

export class Laboratory {
  constructor(settings, data) {
    this.settings = { ...DEFAULTS, ...settings };
    this.data = data;
    const { f, w } = problemOf(this.settings, data);
    this.f = f;
    this.step = 0;
    const opt = this.optimizer();
    this.processes = { optimizer: new Discrete(f, w, opt), stable: new Stable(f, w, opt), central: new Central(f, w, opt) };
    this.coords = Array.from({ length: Math.min(COORDS, f.dim) }, (_, j) =>
      Math.round((j * (f.dim - 1)) / Math.max(1, Math.min(COORDS, f.dim) - 1)),
    );
    this.kept = new Map(); // states, which are values
    this.rows = [];
    this.look();
  }

  /** The learning rate at a step: that of the last change before it. */
  get lr() {
    return this.settings.changes.reduce(
      (lr, change) => (change.lr && change.step <= this.step ? change.lr : lr),
      this.settings.lr,
    );
  }

  optimizer() {
    const { optimizer: name, beta1, beta2 } = this.settings;
    return optimizer(name, { lr: this.lr, beta1, beta2 }, this.f.dim);
  }

  /** Observe all processes at the present step; the flow without penalty leaves the central flow where that is asked. */
  look() {
    const { processes, settings, step } = this;
    if (step % KEEP_EVERY === 0) this.kept.set(step, processes);
    const last = settings.changes.filter((c) => "penalty" in c && c.step <= step).at(-1);
    const ablated =
      !last || last.penalty
        ? null
        : (processes.ablated ?? Object.assign(processes.central.clone(), { penalised: false }));
    this.now = Object.fromEntries(
      Object.entries({ ...processes, ablated })
        .filter(([, p]) => p)
        .map(([name, p]) => [name, p.clone()]),
    );
    if (settings.changes.some((c) => "lr" in c && c.step === step)) {
      // it may have put a flow beyond the edge
      for (const name of ["central", "ablated"]) if (this.now[name]) this.now[name].settled = false;
    }
    const opt = this.optimizer();
    this.seen = Object.fromEntries(
      Object.entries(this.now)
        .filter(([, p]) => !p.end)
        .map(([name, p]) => [name, p.observe(opt)]),
    );
    this.rows[step] = this.row();
  }

  /** Take a step, and look. */
  advance() {
    if (this.now.optimizer.end) return false;
    const opt = this.optimizer();
    for (const [name, process] of Object.entries(this.now)) if (!process.end) process.step(opt, this.seen[name]);
    this.processes = this.now;
    this.step += 1;
    this.look();
    return true;
  }

  /** What is recorded of the present step. */
  row() {
    const { seen, now: processes, coords, step } = this;
    const there = seen.optimizer;
    const row = { step, lr: this.lr, threshold: this.optimizer().threshold };
    for (const [name, process] of Object.entries(processes)) {
      const here = seen[name];
      if (!here) {
        row[name] = { end: process.end };
        continue;
      }
      const nu = here.nu.length === this.f.dim ? (i) => here.nu[i] : () => here.nu[0];
      const one = {
        loss: here.loss,
        predicted_loss: here.predicted ?? here.loss,
        eigenvalues: here.eigenvalues ?? null,
        variances: here.variances ?? [],
        nu_sum: (here.nu.reduce((s, x) => s + x, 0) * this.f.dim) / here.nu.length,
        p_sum: here.p.reduce((s, x) => s + x, 0),
        nu: coords.map(nu),
        w: this.f.dim === 2 ? [...here.w] : null,
        distance: 0,
        end: process.end,
        doubt: process.doubt ?? "",
      };
      if (name !== "optimizer" && there) {
        one.distance = Math.hypot(...here.w.map((x, i) => x - there.w[i]));
        if (here.axes?.length)
          one.displacement = here.axes.map((axis) =>
            inner(
              here.p,
              axis,
              there.w.map((x, i) => x - here.w[i]),
            ),
          );
      }
      row[name] = one;
    }
    return row;
  }

  /** The network as the optimizer and the flow have it, for the picture of the fit. */
  fit(inputs) {
    if (!this.f.outputs) return null;
    return Object.fromEntries(
      Object.entries(this.now)
        .filter(([, p]) => !p.end)
        .map(([name, p]) => [name, this.f.outputs(p.w, inputs)]),
    );
  }

  /** Back to a step that was, by way of the last state kept before it. */
  back(step) {
    const from = Math.max(...[...this.kept.keys()].filter((s) => s <= step));
    this.processes = this.kept.get(from);
    for (const s of [...this.kept.keys()]) if (s > step) this.kept.delete(s);
    this.rows.length = from;
    this.step = from;
    this.look();
    while (this.step < step && this.advance());
  }

  /** Change the learning rate, or switch the penalty on or off, from the present step on. */
  change(what) {
    this.settings.changes = [
      ...this.settings.changes.filter(
        (c) => c.step < this.step || (c.step === this.step && !Object.keys(what).some((k) => k in c)),
      ),
      { step: this.step, ...what },
    ];
    this.look();
  }
}
