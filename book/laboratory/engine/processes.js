// What runs side by side: the optimizer, the stable flow, the central flow with its penalty and without.

import { add, combine, dot, eigh, inner, isFinite } from "./linear.js";
import { topEigenpairs } from "./eigen.js";
import { MAX_RESIDUAL, advance } from "./flows.js";
import { thirdDerivatives } from "./network.js";

// Eigenvalues are in units of the threshold θ: 1 is the edge of stability.
const CRITICAL = 0.9; // those above it may come to oscillate
const STAYS_CRITICAL = 0.8; // those that did remain critical until they are below
const MAX_CRITICAL = 6;
const MAX_TRUSTED = 1.05; // a larger eigenvalue: what the flow predicts is not to be trusted
const MAX_STABLE = 4; // the stable flow is stopped there: it is stiff by then, and far from the optimizer
const MAX_CENTRAL = 500;
const MAX_ESCAPE = 0.005; // an eigenvalue that is so far above 1 was not found in time: steps are halved
const MAX_FINER = 8;
const MAX_HEUN = 1.25; // λ dt; Heun's method is stable up to 2
const LEAPFROG = 6; // steps in a unit of time, times √(λ/θ), with momentum: stable from 1 on, within a hundredth from 5 on
const MAX_BEND = 0.05; // second-order part of a step over its first
const MAX_SUBSTEPS = 400;
const MAX_ANHARMONICITY = 0.5; // share by which the loss across the oscillation may differ from its leading order
const TRACKED = 4; // eigenvalues, at least
const EIG_TOL = 1e-3;
const MAX_LOSS = 1e6; // times that at the start: the optimizer has diverged

/** A block of vectors to begin the search for eigenvectors with: any that are not special. */
const anyVectors = (n, k) =>
  Array.from({ length: Math.min(n, k) }, (_, j) =>
    Float64Array.from({ length: n }, (_, i) => Math.sin(1 + (i + 1) * (j + 1) * 1.7) + (i % k === j)),
  );

/** Steps in a unit of time, if so many of them bend so much. */
const divided = (count, bend) => Math.min(Math.ceil((count * Math.min(bend, 10)) / MAX_BEND), MAX_SUBSTEPS);

const roughly = (x) => Number(x.toPrecision(3)).toString();

/** The optimizer, step by step; its spectrum is that at the midpoints of its steps. */
export class Discrete {
  constructor(f, w, opt) {
    Object.assign(this, { f, w: Float64Array.from(w), first: f.at(w).loss, ...opt.init(), t: 1, end: "", every: 10 });
  }

  clone() {
    return Object.assign(Object.create(Discrete.prototype), this);
  }

  /** What there is to see at the present step, before it is taken. */
  observe(opt) {
    const { f, w, t } = this;
    const { loss, g } = f.at(w);
    const nu = opt.update(this.nu, g),
      m = opt.average(this.m, g),
      p = opt.preconditioner(nu, t);
    const following = w.map((x, i) => x - m[i] / p[i]);
    const seen = { loss, nu, m, p, w, following };
    if (this.before && (t - 1) % this.every === 0) {
      const middle = w.map((x, i) => (this.before[i] + 2 * x + following[i]) / 4);
      this.guess ??= anyVectors(f.dim, TRACKED);
      const { values, U } = topEigenpairs(f.at(middle), p, this.guess, Math.min(2, f.dim), 1e-2, 20);
      this.guess = U;
      seen.eigenvalues = values;
      this.top = values[0];
    }
    return seen;
  }

  step(opt, seen) {
    this.before = this.w;
    Object.assign(this, { w: seen.following, nu: seen.nu, m: seen.m, t: this.t + 1 });
    if (!(isFinite(this.w) && Math.abs(seen.loss) < MAX_LOSS * Math.max(Math.abs(this.first), 1e-6))) {
      const why =
        this.top > opt.threshold
          ? `the largest eigenvalue of P⁻¹H is ${roughly(this.top)}, above ${roughly(opt.threshold)}, and nothing lowers it in time`
          : "each step is longer than the one before";
      this.end = `the optimizer diverges: ${why}. Use a smaller learning rate`;
    }
  }
}

/** What flows have in common. They begin with ν and m as they are after the first step. */
class Flow {
  constructor(f, w, opt) {
    const { g } = f.at(w),
      { nu, m } = opt.init();
    Object.assign(this, { f, w: Float64Array.from(w), nu: opt.update(nu, g), m: opt.average(m, g), t: 1 });
    Object.assign(this, { end: "", doubt: "", guess: null, top: 0, falling: false });
  }

  clone() {
    return Object.assign(Object.create(Object.getPrototypeOf(this)), this);
  }

  track(here, p, k, count) {
    const { f } = this;
    if ((this.guess?.length ?? 0) < Math.min(k, f.dim)) {
      this.guess = [...(this.guess ?? []), ...anyVectors(f.dim, k)].slice(0, Math.min(k, f.dim));
    }
    const found = topEigenpairs(here, p, this.guess, Math.min(count, f.dim), EIG_TOL);
    [this.guess, this.falling, this.top] = [found.U, found.values[0] < this.top, found.values[0]];
    return found;
  }

  move({ w, nu, m, t }) {
    Object.assign(this, { w, nu, m, t });
  }

  /** Number of steps in the unit of time, at least. */
  count(opt, least = 1) {
    const stable = opt.memory ? LEAPFROG * Math.sqrt(Math.max(this.top / opt.threshold, 1)) : this.top / MAX_HEUN;
    return Math.max(least, Math.ceil(stable), Math.ceil(opt.rate));
  }
}

/** The stable flow, until its effective sharpness is far above the threshold: equation eq-stable-flow. */
export class Stable extends Flow {
  observe(opt) {
    const here = this.f.at(this.w),
      { loss, g } = here;
    const p = opt.preconditioner(this.nu, this.t);
    const { values } = this.track(here, p, 2, 1);
    const most = MAX_STABLE * opt.threshold;
    if (this.top > most)
      this.end = `its effective sharpness is above ${roughly(most)}, far beyond the edge of stability`;
    return { loss, predicted: loss, g, p, w: this.w, nu: this.nu, eigenvalues: values, variances: [] };
  }

  step(opt, seen) {
    let count = this.count(opt),
      { g } = seen,
      state = this,
      retried = false;
    for (let j = 0; j < count; j++) {
      if (j) ({ g } = this.f.at(state.w));
      const next = advance(this.f, opt, state, 1 / count, g);
      if (j === 0 && next.bend > MAX_BEND && count < MAX_SUBSTEPS && !retried) {
        count = divided(count, next.bend);
        [retried, j] = [true, -1];
        continue;
      }
      state = next;
    }
    this.move({ ...state, t: Math.round(state.t) });
    if (!isFinite(this.w)) this.end = "it runs away";
  }
}

/** The central flow: equation eq-central-flow; `penalised` false for that without its curvature penalty. */
export class Central extends Flow {
  constructor(f, w, opt, penalised = true, substeps = 2) {
    super(f, w, opt);
    Object.assign(this, {
      penalised,
      substeps,
      k: 0,
      finer: 1,
      checked: 0,
      settled: false,
      axes: [],
      anharmonic: false,
    });
  }

  /** Eigenpairs, those that are critical, and their third derivatives: all afresh. */
  refresh(here, opt) {
    const p = opt.preconditioner(this.nu, this.t);
    let size = Math.max(TRACKED, this.k + 2),
      found;
    for (;;) {
      found = this.track(here, p, size, Math.min(this.k + 1, MAX_CRITICAL));
      const limit = (j) => (j < this.k ? STAYS_CRITICAL : CRITICAL) * opt.threshold;
      const near = found.values.filter((x, j) => x > limit(j)).length;
      if (near + 1 < found.values.length || size > MAX_CRITICAL || size >= this.f.dim) {
        this.k = Math.min(near, MAX_CRITICAL);
        break;
      }
      size += 2;
    }
    const U = found.U.slice(0, this.k),
      HU = found.HU.slice(0, this.k);
    const A = U.map((u, a) =>
      U.map((v, b) => opt.threshold * inner(p, u, v) - (dot(u, HU[b]) + dot(v, HU[a])) / 2),
    );
    return { p, values: found.values, critical: { A, U, T: thirdDerivatives(here, U) } };
  }

  observe(opt) {
    const { f, w, nu } = this,
      edge = roughly(opt.threshold);
    const here = f.at(w),
      { loss, g } = here;
    const { p, values, critical } = this.refresh(here, opt);
    const top = this.top / opt.threshold;
    if (top > MAX_CENTRAL)
      this.end = `the largest eigenvalue of P⁻¹H along the flow is ${roughly(this.top)}, far beyond ${edge}`;
    const returns = opt.memory && this.falling; // as fast as m lets it
    if (this.settled && top > 1 + MAX_ESCAPE && !returns) this.finer = Math.min(2 * this.finer, MAX_FINER);
    else if (this.finer > 1 && top < 1 + MAX_ESCAPE / 4) this.finer /= 2;
    let count = this.count(opt, this.substeps * this.finer);
    let first = advance(f, opt, this, 1 / count, g, critical, this.penalised);
    while (first.bend > MAX_BEND && count < MAX_SUBSTEPS) {
      const settled = first.bend <= 0.5;
      count = divided(count, first.bend);
      first = advance(f, opt, this, 1 / count, g, critical, this.penalised);
      if (settled) break;
    }
    this.settled ||= top <= MAX_TRUSTED;
    const { variances, axes } = this.principal(critical.U, first.X, p);
    this.examine(opt, loss, variances, axes, first.residual);
    const trace = variances.reduce((sum, x) => sum + x, 0);
    return {
      loss,
      predicted: loss + (opt.threshold / 2) * trace,
      g,
      p,
      w,
      nu,
      eigenvalues: values,
      variances,
      axes,
      first,
      count,
      trusted: !this.doubt,
    };
  }

  /** P-orthonormal eigenvectors of Σ, and the variances along them. */
  principal(U, X, p) {
    if (!U.length) return { variances: [], axes: (this.axes = []) };
    const { values, vectors } = eigh(X);
    const variances = values.map((x) => (x > 1e-12 * values[0] ? x : 0));
    const axes = vectors.map((v) => combine(v, U));
    axes.forEach((axis) => {
      // keep their directions from step to step
      const overlaps = this.axes.map((old) => inner(p, old, axis));
      const nearest = overlaps.reduce((best, x) => (Math.abs(x) > Math.abs(best) ? x : best), 0);
      if (nearest < 0) for (let i = 0; i < axis.length; i++) axis[i] = -axis[i];
    });
    this.axes = axes;
    return { variances, axes };
  }

  /** Why the flow is not to be trusted, if so. */
  examine(opt, loss, [variance = 0], [axis], residual) {
    const edge = roughly(opt.threshold);
    if (variance > 2 * this.checked || (this.anharmonic && variance < this.checked / 2)) {
      // another size: look again
      [this.checked, this.anharmonic] = [variance, variance > 0 && this.isAnharmonic(opt, loss, variance, axis)];
    }
    this.doubt =
      this.top > MAX_TRUSTED * opt.threshold
        ? `the largest eigenvalue along the flow is ${roughly(this.top)}, above ${edge}: ${this.settled ? "it was not held there" : "the flow is beyond the edge of stability, and has to come down"}`
        : residual > MAX_RESIDUAL
          ? "the complementarity problem could not be solved"
          : this.anharmonic
            ? `the oscillation that would hold the eigenvalues at ${edge} is too wide for a second-order expansion of the loss`
            : "";
  }

  /** Whether the loss across the oscillation is far from what its second derivatives say. */
  isAnharmonic(opt, loss, variance, axis) {
    const way = Math.sqrt(variance),
      expected = (opt.threshold / 2) * variance;
    const mean = [1, -1].reduce((sum, s) => sum + this.f.at(add(this.w.slice(), s * way, axis)).loss / 2, 0);
    return Math.abs(mean - loss - expected) > MAX_ANHARMONICITY * expected + 1e-13 * Math.abs(loss);
  }

  step(opt, seen) {
    let state = seen.first;
    for (let j = 1; j < seen.count; j++) {
      this.move(state);
      const here = this.f.at(this.w);
      const { critical } = this.refresh(here, opt);
      state = advance(this.f, opt, this, 1 / seen.count, here.g, critical, this.penalised);
    }
    this.move({ ...state, t: Math.round(state.t) });
    if (!isFinite(this.w)) this.end = "the flow is no longer finite";
    else if (state.residual > 1e-2)
      this.end =
        "no oscillation lowers the eigenvalue that has reached the threshold: the complementarity problem has no solution";
  }
}
