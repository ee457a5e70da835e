// One step of the stable flow and of the central flow. With c = (1-β₂)/β₂ and Σ = UXUᵀ over the critical eigenvectors U
// of P⁻¹H, those with eigenvalues near 2,
//
//     dw/dt = -P⁻¹ (∇L + ½ ∇⟨Σ, H⟩)                       equation eq-central-flow of the book
//     dν/dt = c (moment(∇L² + 4p² ⊙ diag Σ) - ν)
//
// Σ = 0 gives the stable flow. Over a step the matrix 2P - H seen along U moves as A + dt (α + B[X]), so that X solves
// SDCP(A + dt α, dt B). The flow without its penalty lacks ½ ∇⟨Σ, H⟩; ν alone then holds the eigenvalues at 2.

import { add, combine, dot, eigh, inner, isFinite } from "./linear.js";
import { pairs, solve, toMatrix, toVector } from "./sdcp.js";

const RECOVERY = 0.2; // an eigenvalue above 2 is lowered by this a unit of time, not all at once
export const MAX_RESIDUAL = 1e-6; // of a complementarity problem that counts as solved

/** A state, with what the right-hand side of the flows needs of it, whatever oscillates. */
export function pointOf(opt, nu, t, g) {
  const p = opt.preconditioner(nu, t);
  const own = opt.preconditioner(opt.withOwn(nu, g), t);
  const m = opt.moment(g.map((x) => x * x));
  return { opt, nu, t, g, p, own, dw: g.map((x, i) => -x / own[i]), dnu: nu.map((x, i) => opt.rate * (m[i] - x)) };
}

/** Velocity of w and ν; `sigma` is diag Σ and ½ ∇⟨Σ, H⟩. */
function velocity({ opt, p, own, dw, dnu }, sigma) {
  if (!sigma) return { dw, dnu };
  const excess = opt.moment(p.map((x, i) => 4 * x * x * sigma.diag[i]));
  return { dw: dw.map((x, i) => x - sigma.penalty[i] / own[i]), dnu: dnu.map((x, i) => x + opt.rate * excess[i]) };
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
 * How fast 2P - H changes along U, α + B[X]: equation eq-mechanisms.
 *     α = 2Uᵀ diag(ṗ₀) U - ∇H[U, U]·ẇ₀,  B[X, Y] = ½⟨∇H[Y], P⁻¹∇H[X]⟩ + 2⟨diag UYUᵀ, ∂p/∂ν c moment(4p² ⊙ diag UXUᵀ)⟩
 */
function driftOf({ opt, nu, t, p, dw, dnu }, { products, third }, [from, to], penalised) {
  const slope = opt.slope(nu, t),
    spread = opt.spread(dnu);
  const [before, after] = [opt.preconditioner(nu, from), opt.preconditioner(nu, to)]; // the bias correction's part
  const dp = slope.map((x, i) => x * spread[i] + (after[i] - before[i]) / (to - from));
  const alpha = products.map((q, j) => 2 * dot(q, dp) - dot(third[j], dw));
  const growth = products.map((q) => opt.spread(opt.moment(q.map((x, i) => 4 * p[i] * p[i] * x))));
  const weights = slope.map((x) => 2 * opt.rate * x),
    inverse = p.map((x) => 1 / x);
  const B = products.map((q, a) =>
    Float64Array.from(products, (_, b) =>
      a < b ? 0 : inner(weights, q, growth[b]) + (penalised ? inner(inverse, third[a], third[b]) / 2 : 0),
    ),
  );
  B.forEach((row, a) =>
    row.forEach((_, b) => {
      if (a < b) row[b] = B[b][a];
    }),
  );
  return { alpha, B };
}

/** Σ through diag Σ and the penalty ½ ∇⟨Σ, H⟩. */
function oscillation(X, { products, third }, penalised, n) {
  const x = toVector(X);
  const penalty = penalised ? combine(x, third, n).map((v) => v / 2) : new Float64Array(n);
  return { diag: combine(x, products, n), penalty };
}

/** X of a step, which makes complementarity hold at its end. */
function covariance(A, dt, { alpha, B }) {
  const drift = toMatrix(alpha, A.length);
  const end = A.map((row, a) => row.map((x, b) => x + dt * drift[a][b]));
  const operator = B.map((row) => row.map((x) => dt * x));
  return solve(end, operator);
}

/**
 * Advance a flow by dt with Heun's method, X constant over the step: a first X from the drift at the start leads to a
 * first end, the mean of the drifts at both gives the X of the step.
 * @param {{w: Float64Array, nu: Float64Array, t: number}} state
 * @param {Float64Array} g gradient at w
 * @param {?{A: Float64Array[], U: Float64Array[], T: Float64Array[][]}} critical A = 2UᵀPU - UᵀHU, T = ∇H[U, U]
 * @returns the state at t + dt; X and its residual; `bend`, the second-order part of the step relative to the first
 */
export function advance(f, opt, { w, nu, t }, dt, g, critical, penalised) {
  const start = pointOf(opt, nu, t, g),
    span = [t, t + dt];
  let X = [],
    residual = 0,
    sigma = null,
    rows,
    first,
    A;
  if (critical?.U.length) {
    rows = rowsOf(critical);
    const { values, vectors } = eigh(critical.A); // from beyond the edge, not all at once
    A = critical.A.map((row) => Float64Array.from(row));
    vectors.forEach((v, j) => {
      const lift = Math.max(values[j], -RECOVERY * dt) - values[j];
      if (lift > 0) v.forEach((x, a) => v.forEach((y, b) => (A[a][b] += lift * x * y)));
    });
    first = driftOf(start, rows, span, penalised);
    ({ X, residual } = covariance(A, dt, first));
    sigma = oscillation(X, rows, penalised, w.length);
  }
  let { dw, dnu } = velocity(start, sigma);
  const positive = (x) => Math.max(x, 0);
  const there = f.at(add(w.slice(), dt, dw)).g;
  const end = pointOf(opt, add(nu.slice(), dt, dnu).map(positive), t + dt, there);
  if (sigma) {
    const second = driftOf(end, rows, span, penalised);
    const mean = {
      alpha: first.alpha.map((x, j) => (x + second.alpha[j]) / 2),
      B: first.B.map((row, a) => row.map((x, b) => (x + second.B[a][b]) / 2)),
    };
    ({ X, residual } = covariance(A, dt, mean));
    sigma = oscillation(X, rows, penalised, w.length);
    ({ dw, dnu } = velocity(start, sigma));
  }
  const then = velocity(end, sigma);
  const change = then.dw.map((x, i) => x - dw[i]);
  const bend = Math.sqrt(inner(start.p, change, change) / inner(start.p, dw, dw) / 4);
  const next = {
    w: w.map((x, i) => x + (dt / 2) * (dw[i] + then.dw[i])),
    nu: nu.map((x, i) => positive(x + (dt / 2) * (dnu[i] + then.dnu[i]))),
    t: t + dt,
  };
  return { ...next, X, residual, bend: isFinite(next.w) ? bend : Infinity };
}
