// Gradient descent, Scalar RMSProp, RMSProp and Adam: a preconditioner p(ν, t), a rule for ν, and one for m, as of
// `cflows.optimizers` and `cflows.momentum`. All take the step w ← w - m / p; without momentum m is the gradient.

/**
 * @param {"gd"|"scalar"|"rmsprop"|"adam"} name
 * @param {{lr: number, beta1: number, beta2: number}} settings η, β₁ (of Adam alone), β₂
 * @param {number} n weights
 */
export function optimizer(name, { lr, beta1, beta2 }, n) {
  const adaptive = name !== "gd",
    each = adaptive && name !== "scalar"; // whether each weight has its ν
  const memory = name === "adam" ? beta1 : 0;
  const spread = (nu) => (nu.length === n ? nu : new Float64Array(n).fill(nu[0]));
  const corrected = (t) => 1 - beta2 ** t; // ν starts at zero
  const scale = (t) => 1 - memory ** t; // and m, too; its correction is in p
  /** What ν averages: g² for each weight, ‖g‖² for all, or nothing. */
  const moment = (square) =>
    each ? square : Float64Array.of(adaptive ? square.reduce((sum, x) => sum + x, 0) : 0);
  return {
    name,
    lr,
    memory,
    moment,
    spread,
    /** θ, the eigenvalue of P⁻¹H at which an oscillation neither grows nor decays: equation eq-adam-threshold. */
    threshold: (2 * (1 + memory)) / (1 - memory),
    /** c of the flows: ν_t - ν_{t-1} = c (g_t² - ν_t). */
    rate: adaptive ? (1 - beta2) / beta2 : 0,
    init: () => ({ nu: new Float64Array(each ? n : 1), m: new Float64Array(n) }),
    update: (nu, g) => {
      const mean = moment(g.map((x) => x * x));
      return adaptive ? nu.map((x, i) => beta2 * x + (1 - beta2) * mean[i]) : nu;
    },
    average: (m, g) => m.map((x, i) => memory * x + (1 - memory) * g[i]),
    /** Diagonal of P: (1-β₁ᵗ) √ν̂ / η. */
    preconditioner: (nu, t) => {
      const share = corrected(t);
      return spread(
        adaptive ? nu.map((x) => (scale(t) * Math.sqrt(x / share)) / lr) : Float64Array.of(1 / lr),
      );
    },
    /** ∂p/∂ν. */
    slope: (nu, t) => {
      const share = corrected(t);
      return spread(nu.map((x) => (adaptive && x > 0 ? scale(t) / (2 * lr * Math.sqrt(x * share)) : 0)));
    },
    /** ν, but no less than (1-β₂)g², since the optimizer's contains the gradient of its own step. */
    withOwn: (nu, g) => {
      const mean = moment(g.map((x) => x * x));
      return adaptive ? nu.map((x, i) => Math.max(x, (1 - beta2) * mean[i])) : nu;
    },
  };
}
