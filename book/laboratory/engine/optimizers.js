// Gradient descent, Scalar RMSProp and RMSProp: a preconditioner p(ν, t) and a rule for ν, as of `cflows.optimizers`.

/**
 * @param {"gd"|"scalar"|"rmsprop"} name
 * @param {number} lr η
 * @param {number} beta2 β₂
 * @param {number} n weights
 */
export function optimizer(name, lr, beta2, n) {
  const adaptive = name !== "gd";
  const size = name === "rmsprop" ? n : 1; // of ν
  const spread = (nu) => (nu.length === n ? nu : new Float64Array(n).fill(nu[0]));
  const corrected = (t) => 1 - beta2 ** t; // ν starts at zero
  /** What ν averages: g² for each weight, ‖g‖² for all, or nothing. */
  const moment = (square) =>
    name === "rmsprop" ? square : Float64Array.of(adaptive ? square.reduce((sum, x) => sum + x, 0) : 0);
  return {
    name,
    lr,
    beta2,
    moment,
    spread,
    /** c of the flows: ν_t - ν_{t-1} = c (g_t² - ν_t). */
    rate: adaptive ? (1 - beta2) / beta2 : 0,
    init: () => new Float64Array(size),
    update: (nu, g) => {
      const m = moment(g.map((x) => x * x));
      return adaptive ? nu.map((x, i) => beta2 * x + (1 - beta2) * m[i]) : nu;
    },
    /** Diagonal of P: √ν̂ / η. */
    preconditioner: (nu, t) => {
      const share = corrected(t);
      return spread(adaptive ? nu.map((x) => Math.sqrt(x / share) / lr) : Float64Array.of(1 / lr));
    },
    /** ∂p/∂ν. */
    slope: (nu, t) => {
      const share = corrected(t);
      return spread(nu.map((x) => (adaptive && x > 0 ? 1 / (2 * lr * Math.sqrt(x * share)) : 0)));
    },
    /** ν, but no less than (1-β₂)g², since the optimizer's contains the gradient of its own step. */
    withOwn: (nu, g) => {
      const m = moment(g.map((x) => x * x));
      return adaptive ? nu.map((x, i) => Math.max(x, (1 - beta2) * m[i])) : nu;
    },
  };
}
