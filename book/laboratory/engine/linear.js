// Vectors are Float64Arrays, a few vectors an array of them, small matrices arrays of rows.

export const dot = (a, b) => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
};

/** ⟨a, b⟩ in the metric of the diagonal p. */
export const inner = (p, a, b) => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += p[i] * a[i] * b[i];
  return sum;
};

/** y + c x, in place. */
export const add = (y, c, x) => {
  for (let i = 0; i < y.length; i++) y[i] += c * x[i];
  return y;
};

/** Σ_j c_j v_j. */
export const combine = (coefficients, vectors, n = vectors[0].length) =>
  vectors.reduce((sum, v, j) => add(sum, coefficients[j], v), new Float64Array(n));

export const zeros = (rows, columns = rows) => Array.from({ length: rows }, () => new Float64Array(columns));

export const multiply = (A, B) =>
  A.map((row) => Float64Array.from(B[0] ?? [], (_, j) => row.reduce((sum, x, i) => sum + x * B[i][j], 0)));

export const transpose = (A) => Array.from(A[0] ?? [], (_, j) => Float64Array.from(A, (row) => row[j]));

export const isFinite = (x) => x.every(Number.isFinite);

/** Eigenvalues, descending, and eigenvectors (rows) of a small symmetric matrix, by Jacobi's rotations. */
export function eigh(matrix) {
  const n = matrix.length;
  const A = matrix.map((row) => Float64Array.from(row));
  const V = zeros(n);
  for (let i = 0; i < n; i++) V[i][i] = 1;
  for (let sweep = 0; sweep < 60; sweep++) {
    let off = 0,
      size = 0;
    for (let i = 0; i < n; i++) {
      size += A[i][i] ** 2;
      for (let j = 0; j < n; j++) if (i !== j) off += A[i][j] ** 2;
    }
    if (!(off > 1e-30 * size)) break;
    for (let i = 0; i < n; i++) {
      for (let j = i + 1; j < n; j++) {
        if (A[i][j] === 0) continue;
        const half = (A[j][j] - A[i][i]) / (2 * A[i][j]);
        const t = (half < 0 ? -1 : 1) / (Math.abs(half) + Math.hypot(half, 1));
        const c = 1 / Math.hypot(t, 1),
          s = t * c;
        for (let k = 0; k < n; k++) {
          const [x, y] = [A[i][k], A[j][k]];
          A[i][k] = c * x - s * y;
          A[j][k] = s * x + c * y;
        }
        for (let k = 0; k < n; k++) {
          const [x, y] = [A[k][i], A[k][j]];
          A[k][i] = c * x - s * y;
          A[k][j] = s * x + c * y;
        }
        for (let k = 0; k < n; k++) {
          const [x, y] = [V[i][k], V[j][k]];
          V[i][k] = c * x - s * y;
          V[j][k] = s * x + c * y;
        }
      }
    }
  }
  const order = Array.from(A.keys()).sort((i, j) => A[j][j] - A[i][i]);
  return { values: order.map((i) => A[i][i]), vectors: order.map((i) => V[i]) };
}

/** x with Ax = b, by elimination with pivots; null if A is singular. */
export function solve(A, b) {
  const n = b.length;
  const M = A.map((row, i) => Float64Array.from([...row, b[i]]));
  for (let i = 0; i < n; i++) {
    let pivot = i;
    for (let j = i + 1; j < n; j++) if (Math.abs(M[j][i]) > Math.abs(M[pivot][i])) pivot = j;
    [M[i], M[pivot]] = [M[pivot], M[i]];
    if (!(Math.abs(M[i][i]) > 1e-300)) return null;
    for (let j = i + 1; j < n; j++) {
      const factor = M[j][i] / M[i][i];
      for (let k = i; k <= n; k++) M[j][k] -= factor * M[i][k];
    }
  }
  const x = new Float64Array(n);
  for (let i = n - 1; i >= 0; i--) {
    let rest = M[i][n];
    for (let j = i + 1; j < n; j++) rest -= M[i][j] * x[j];
    x[i] = rest / M[i][i];
  }
  return x;
}
