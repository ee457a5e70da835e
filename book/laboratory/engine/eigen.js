import { combine, dot, eigh, inner } from "./linear.js";

/** P-orthonormal vectors that span what some vectors span, without those that depend on the others. */
export function orthonormal(p, vectors, before = []) {
  const basis = [];
  for (const vector of vectors) {
    const v = Float64Array.from(vector);
    const size = Math.sqrt(inner(p, v, v));
    for (let twice = 0; twice < 2; twice++) {
      for (const q of [...before, ...basis]) {
        const c = inner(p, q, v);
        for (let i = 0; i < v.length; i++) v[i] -= c * q[i];
      }
    }
    const rest = Math.sqrt(inner(p, v, v));
    if (rest > 1e-10 * size) basis.push(v.map((x) => x / rest));
  }
  return basis;
}

/**
 * Largest eigenvalues of P⁻¹H and right eigenvectors, Hu = λPu with UᵀPU = I, from a good guess: Rayleigh and Ritz's
 * method in the span of the guess and its residuals, again and again.
 * @param {{product: function}} here the loss near some weights
 * @param {Float64Array} p diagonal of P
 * @param {Float64Array[]} guess as many vectors as eigenpairs to find
 * @param {number} count those that have to be accurate
 * @param {number} tol residual, relative to the largest eigenvalue
 * @returns {{values: number[], U: Float64Array[], HU: Float64Array[], residual: number}}
 */
export function topEigenpairs(here, p, guess, count, tol, most = 200) {
  let S = orthonormal(p, guess),
    HS = S.map((u) => here.product(u)),
    residual = Infinity;
  const k = S.length;
  for (let iteration = 0; ; iteration++) {
    const { values, vectors } = eigh(S.map((u) => HS.map((h) => dot(u, h))));
    const U = vectors.slice(0, k).map((c) => combine(c, S)),
      HU = vectors.slice(0, k).map((c) => combine(c, HS));
    const rest = HU.map((h, j) => h.map((x, i) => x / p[i] - values[j] * U[j][i]));
    const sizes = rest.map((r) => Math.sqrt(inner(p, r, r)));
    residual = Math.max(...sizes.slice(0, count)) / Math.max(Math.abs(values[0]), 1e-30);
    if (residual <= tol || iteration === most || k === p.length) return { values: values.slice(0, k), U, HU, residual };
    const R = orthonormal(
      p,
      rest.filter((_, j) => sizes[j] > 1e-12),
      U,
    );
    [S, HS] = [
      [...U, ...R],
      [...HU, ...R.map((u) => here.product(u))],
    ];
  }
}
