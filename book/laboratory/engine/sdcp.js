import { eigh, multiply, solve as solveLinear, transpose, zeros } from "./linear.js";

// Symmetric matrices (k, k) as vectors over an orthonormal basis, and back.
export const pairs = (k) => Array.from({ length: k }, (_, i) => Array.from({ length: i + 1 }, (_, j) => [i, j])).flat();
export const toVector = (A) =>
  Float64Array.from(pairs(A.length), ([i, j]) => (i === j ? A[i][i] : (A[i][j] + A[j][i]) / Math.SQRT2));
export const toMatrix = (x, k) => {
  const A = zeros(k);
  pairs(k).forEach(([i, j], at) => (A[i][j] = A[j][i] = i === j ? x[at] : x[at] / Math.SQRT2));
  return A;
};
const apply = (M, x) => Float64Array.from(M, (row) => row.reduce((sum, m, i) => sum + m * x[i], 0));
const norm = (x) => Math.hypot(...x);
const outer = (V, weights) => {
  // Σ_j weights_j v_j v_jᵀ
  const A = zeros(V.length);
  V.forEach((v, j) => v.forEach((x, a) => v.forEach((y, b) => (A[a][b] += weights[j] * x * y))));
  return A;
};
/** The matrix over the basis of X ↦ QᵀXQ. */
const congruence = (Q) => {
  const k = Q.length;
  return transpose(
    pairs(k).map((_, at) => {
      const unit = new Float64Array((k * (k + 1)) / 2);
      unit[at] = 1;
      return toVector(multiply(transpose(Q), multiply(toMatrix(unit, k), Q)));
    }),
  );
};

/**
 * The semidefinite complementarity problem SDCP(A, B): X ⪰ 0 with Y = A + B[X] ⪰ 0 and ⟨X, Y⟩ = 0. It makes
 * complementarity hold at the end of a step: equation eq-complementarity of the chapter on the central flow.
 * @param {Float64Array[]} A (k, k), symmetric
 * @param {Float64Array[]} B over `pairs(k)`, symmetric and positive semidefinite: the operator over the basis
 * @returns {{X: Float64Array[], residual: number}} the largest violation of the three conditions, relative
 */
export function solve(A, B) {
  const k = A.length;
  if (k === 0) return { X: [], residual: 0 };
  const a = toVector(A);
  let best = { X: zeros(k), residual: Infinity };
  for (const x of candidates(A, a, B, k)) {
    const residual = violation(a, B, x, k);
    if (residual < best.residual) best = { X: toMatrix(x, k), residual };
    if (best.residual < 1e-10) break;
  }
  return best;
}

function* candidates(A, a, B, k) {
  yield new Float64Array(a.length); // the right one if A ⪰ 0
  const locked = solveLinear(
    B,
    a.map((x) => -x),
  ); // every eigenvalue stays at 2
  if (locked) yield locked;
  // Unit scale: X = s D x D, such that B acts on each direction by itself as 1.
  const at = pairs(k);
  const diagonal = B.map((row, i) => row[i]).filter((_, i) => at[i][0] === at[i][1]);
  const largest = Math.max(...diagonal) || 1;
  const D = diagonal.map((b) => Math.max(b, 1e-26 * largest) ** -0.25);
  const scale = Float64Array.from(at, ([i, j]) => D[i] * D[j]);
  const scaled = a.map((x, i) => x * scale[i]),
    s = Math.max(...scaled.map(Math.abs));
  const b = B.map((row, i) => row.map((x, j) => x * scale[i] * scale[j]));
  for (const method of [newton, descent])
    for (const x of method(
      scaled.map((x) => x / s),
      b,
      k,
    ))
      yield x.map((x, i) => s * x * scale[i]);
}

/** Newton's method for X = Π₊(X - Y), Y = a + b[X]. */
function* newton(a, b, k, start = new Float64Array(a.length), steps = 30) {
  let x = start;
  for (let step = 0; step < steps; step++) {
    const bx = apply(b, x);
    const { values, vectors } = eigh(
      toMatrix(
        x.map((x, i) => x - a[i] - bx[i]),
        k,
      ),
    );
    const plus = values.map((v) => Math.max(v, 0));
    const projected = toVector(outer(vectors, plus));
    yield projected;
    const S = congruence(transpose(vectors)); // into the eigenvectors' basis
    const slope = pairs(k).map(
      ([i, j]) => (plus[i] + plus[j]) / (Math.max(Math.abs(values[i]), 1e-300) + Math.max(Math.abs(values[j]), 1e-300)),
    );
    const jacobian = multiply(
      transpose(S),
      S.map((row, i) => row.map((x) => slope[i] * x)),
    );
    const M = multiply(
      jacobian,
      b.map((row, i) => row.map((x, j) => (i === j) - x)),
    );
    const way = solveLinear(
      M.map((row, i) => row.map((x, j) => (i === j) - x)),
      projected.map((p, i) => p - x[i]),
    );
    if (!way) return;
    x = x.map((x, i) => x + way[i]);
  }
}

/** Nesterov's accelerated projected gradient, which does not fail but is slow; then Newton from there. */
function* descent(a, b, k) {
  let x = new Float64Array(a.length),
    y = x,
    t = 1;
  const rate = 1 / Math.max(...b.map((row) => row.reduce((sum, v) => sum + Math.abs(v), 0)));
  for (let step = 1; step <= 5000; step++) {
    const by = apply(b, y);
    const { values, vectors } = eigh(
      toMatrix(
        y.map((v, i) => v - rate * (a[i] + by[i])),
        k,
      ),
    );
    const next = toVector(
      outer(
        vectors,
        values.map((v) => Math.max(v, 0)),
      ),
    );
    const rising = next.reduce((sum, v, i) => sum + (y[i] - v) * (v - x[i]), 0) > 0;
    const later = rising ? 1 : (1 + Math.sqrt(1 + 4 * t * t)) / 2;
    const c = rising ? 0 : (t - 1) / later;
    y = next.map((v, i) => v + c * (v - x[i]));
    [x, t] = [next, later];
    if (step % 500 === 0) {
      yield x;
      yield* newton(a, b, k, x, 8);
    }
  }
}

function violation(a, B, x, k) {
  const y = apply(B, x).map((v, i) => v + a[i]);
  if (!y.every(Number.isFinite)) return Infinity;
  const lowest = (v) => Math.min(0, eigh(toMatrix(v, k)).values.at(-1));
  const [nx, na] = [norm(x), norm(a) || 1];
  const slack = nx ? Math.abs(x.reduce((sum, v, i) => sum + v * y[i], 0)) / (nx * na) : 0;
  return Math.max(-lowest(y) / na, nx ? -lowest(x) / nx : 0, slack);
}
