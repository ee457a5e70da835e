// One step of the stable flow and of the central flow. With c = (1-β₂)/β₂ and Σ = UXUᵀ over the critical eigenvectors U
// of P⁻¹H, those with eigenvalues near the threshold θ,
//
//     dw/dt = -P⁻¹ (∇L + ½ ∇⟨Σ, H⟩)                       equation eq-central-flow of the book, where θ is 2
//     dν/dt = c (moment(∇L² + θ²p² ⊙ diag Σ) - ν)
//
// Σ = 0 gives the stable flow. Over a step the matrix θP - H seen along U moves as A + dt (α + B[X]), so that X solves
// SDCP(A + dt α, dt B). The flow without its penalty lacks ½ ∇⟨Σ, H⟩; ν alone then holds the eigenvalues at θ.
//
// With momentum m is a state, too: dw/dt = -P⁻¹m and dm/dt = ln(1/β₁) (∇L + ½ ∇⟨Σ, H⟩ - m), equation eq-adam-flow.

import { add, combine, dot, eigh, inner, isFinite } from "./linear.js";
import { pairs, solve, toMatrix, toVector } from "./sdcp.js";

const RECOVERY = 0.1; // an eigenvalue above θ is lowered by this share of it a unit of time, not all at once
export const MAX_RESIDUAL = 1e-6; // of a complementarity problem that counts as solved

/** A state, with what the right-hand side of the flows needs of it, whatever oscillates. */
function pointOf(opt, nu, t, g, m = g) {
  const p = opt.preconditioner(nu, t);
  const own = opt.preconditioner(opt.withOwn(nu, g), t);
  const mean = opt.moment(g.map((x) => x * x));
  return { opt, nu, t, p, own, dw: m.map((x, i) => -x / own[i]), dnu: nu.map((x, i) => opt.rate * (mean[i] - x)) };
}

/** What an oscillation adds to the mean squared gradient: diag HΣH, since HΣ = θPΣ. */
const excess = ({ opt, p }, diag) => opt.moment(p.map((x, i) => opt.threshold ** 2 * x * x * diag[i]));

/** Velocity of w and ν; `sigma` is diag Σ and ½ ∇⟨Σ, H⟩. */
function velocity(at, sigma) {
  const { opt, own, dw, dnu } = at;
  if (!sigma) return { dw, dnu };
  const more = excess(at, sigma.diag);
  return { dw: dw.map((x, i) => x - sigma.penalty[i] / own[i]), dnu: dnu.map((x, i) => x + opt.rate * more[i]) };
}

/**
 * What the critical eigenvectors enter by: for each pair of them u_a ⊙ u_b and ∇(u_aᵀHu_b), scaled to an orthonormal
 * basis of symmetric matrices.
 */
function rowsOf({ U, T }) {
  const at = pairs(U.length),
    scale = ([a, b]) => (a === b ? 1 : Math.SQRT2);
  return {
    products: at.map((ab) => U[ab[0]].map((x, i) => scale(ab) * x * U[ab[1]][i])),
    third: at.map((ab) => T[ab[0]][ab[1]].map((x) => scale(ab) * x)),
  };
}

/**
 * How fast θP - H changes along U, α + B[X]: equation eq-mechanisms.
 *     α = θUᵀ diag(ṗ₀) U - ∇H[U, U]·ẇ₀,  B[X, Y] = ½⟨∇H[Y], P⁻¹∇H[X]⟩ + θ⟨diag UYUᵀ, ∂p/∂ν c moment(θ²p² ⊙ diag UXUᵀ)⟩
 * `share` is that of the penalty which reaches w.
 */
function driftOf(at, { products, third }, [from, to], share) {
  const { opt, nu, t, p, dw, dnu } = at;
  const slope = opt.slope(nu, t),
    spread = opt.spread(dnu);
  const [before, after] = [opt.preconditioner(nu, from), opt.preconditioner(nu, to)]; // the bias correction's part
  const dp = slope.map((x, i) => x * spread[i] + (after[i] - before[i]) / (to - from));
  const alpha = products.map((q, j) => opt.threshold * dot(q, dp) - dot(third[j], dw));
  const growth = products.map((q) => opt.spread(excess(at, q)));
  const weights = slope.map((x) => opt.threshold * opt.rate * x),
    inverse = p.map((x) => share / (2 * x));
  const B = products.map((q, a) =>
    Float64Array.from(products, (_, b) =>
      a < b ? 0 : inner(weights, q, growth[b]) + (share ? inner(inverse, third[a], third[b]) : 0),
    ),
  );
  B.forEach((row, a) =>
    row.forEach((_, b) => {
      if (a < b) row[b] = B[b][a];
    }),
  );
  return { alpha, B };
}

const mean = (vectors) => vectors[0].map((_, i) => vectors.reduce((sum, v) => sum + v[i], 0) / vectors.length);

/**
 * What oscillates during a step: `drift` at a point, and `oscillate`, by the mean of some drifts, to the X that makes
 * complementarity hold at the end of the step, with Σ through diag Σ and the penalty ½ ∇⟨Σ, H⟩.
 * @param {number} felt share of what acts on the flow that reaches w within the step; the rest is in m
 */
function oscillator(critical, { threshold }, [t, end], penalised, felt = 1) {
  if (!critical?.U.length) return { drift: () => null, oscillate: () => ({ X: [], residual: 0, sigma: null }) };
  const rows = rowsOf(critical),
    dt = end - t,
    share = penalised ? felt : 0;
  const { values, vectors } = eigh(critical.A);
  const A = critical.A.map((row) => Float64Array.from(row));
  vectors.forEach((v, j) => {
    const lift = Math.max(0, Math.max(felt * values[j], -RECOVERY * threshold * dt) - values[j]);
    v.forEach((x, a) => v.forEach((y, b) => (A[a][b] += lift * x * y)));
  });
  return {
    drift: (at) => driftOf(at, rows, [t, end], share),
    oscillate: (drifts) => {
      const alpha = toMatrix(mean(drifts.map((d) => d.alpha)), A.length);
      const B = drifts[0].B.map((_, a) => mean(drifts.map((d) => d.B[a])).map((x) => dt * x));
      const { X, residual } = solve(
        A.map((row, a) => row.map((x, b) => x + dt * alpha[a][b])),
        B,
      );
      const x = toVector(X);
      const penalty = combine(x, rows.third).map((v) => (share * v) / 2);
      return { X, residual, sigma: { diag: combine(x, rows.products), penalty } };
    },
  };
}

const positive = (x) => Math.max(x, 0);
const after = (x, dt, dx) => add(x.slice(), dt, dx);

/** Heun's method: a first X from the drift at the start leads to a first end, the mean of the drifts at both to the X. */
function heun(f, opt, { w, nu, m, t }, dt, g, critical, penalised) {
  const { drift, oscillate } = oscillator(critical, opt, [t, t + dt], penalised);
  const start = pointOf(opt, nu, t, g),
    first = drift(start);
  const guess = velocity(start, oscillate([first]).sigma);
  const there = f.at(after(w, dt, guess.dw)).g;
  const end = pointOf(opt, after(nu, dt, guess.dnu).map(positive), t + dt, there);
  const { X, residual, sigma } = oscillate([first, drift(end)]);
  const [one, two] = [velocity(start, sigma), velocity(end, sigma)];
  const dw = mean([one.dw, two.dw]),
    half = two.dw.map((x, i) => (x - one.dw[i]) / 2);
  return {
    w: after(w, dt, dw),
    nu: after(nu, dt, mean([one.dnu, two.dnu])).map(positive),
    m,
    X,
    residual,
    bend: Math.sqrt(inner(start.p, half, half) / inner(start.p, one.dw, one.dw)),
  };
}

/**
 * With momentum: m by half a step, w by a step, m by the other half. Adam itself is that, in steps of length 1. The
 * penalty acts on m at the start of the step, as a constraint does in mechanics.
 */
function leapfrog(f, opt, { w, nu, m, t }, dt, g, critical, penalised) {
  const half = opt.memory ** (dt / 2); // what half a step remembers
  const { drift, oscillate } = oscillator(critical, opt, [t, t + dt], penalised, 1 - half ** 2);
  const start = pointOf(opt, nu, t, g);
  const kicked = m.map((x, i) => half * x + (1 - half) * g[i]);
  const middle = (g, sigma) => {
    const grown = after(nu, dt / 2, velocity(start, sigma).dnu).map(positive);
    return pointOf(opt, grown, t + dt / 2, g, kicked);
  };
  const guess = oscillate([drift(middle(g))]).sigma;
  const there = f.at(after(w, dt, velocity(middle(g, guess), guess).dw)).g;
  const { X, residual, sigma } = oscillate([g, there].map((g) => drift(middle(g, guess))));
  const [one, two] = [g, there].map((g) => velocity(middle(g, sigma), sigma));
  const penalty = sigma?.penalty ?? new Float64Array(w.length);
  const next = after(nu, dt, mean([one.dnu, two.dnu])).map(positive);
  const { dw } = middle(g, sigma);
  const bent = opt.preconditioner(next, t + dt).map((x, i) => ((x / start.p[i] - 1) * dw[i]) / 2);
  return {
    w: after(w, dt, one.dw),
    nu: next,
    m: kicked.map((x, i) => half * (x + penalty[i]) + (1 - half) * there[i]),
    X,
    residual,
    bend: Math.sqrt(inner(start.p, bent, bent) / inner(start.p, dw, dw)),
  };
}

/**
 * Advance a flow by dt, X constant over the step.
 * @param {{w: Float64Array, nu: Float64Array, m: Float64Array, t: number}} state
 * @param {Float64Array} g gradient at w
 * @param {?{A: Float64Array[], U: Float64Array[], T: Float64Array[][]}} critical A = θUᵀPU - UᵀHU, T = ∇H[U, U]
 * @returns the state at t + dt; X and its residual; `bend`, the second-order part of the step relative to the first
 */
export function advance(f, opt, state, dt, g, critical, penalised) {
  const next = (opt.memory ? leapfrog : heun)(f, opt, state, dt, g, critical, penalised);
  return { ...next, t: state.t + dt, bend: isFinite(next.w) ? next.bend : Infinity };
}
