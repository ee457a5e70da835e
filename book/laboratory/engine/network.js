// Losses whose derivatives along a line come by Taylor's series: no differences, no step size to choose.
//
// `f.at(w)` is a loss near some weights: `loss`, `g` = ∇L(w), `product(u)` = Hu and `third(u)` = ∇(uᵀHu).

// The three products of a layer. W (rows, columns) begins at `at` in a vector of weights; a is (columns, N), d is
// (rows, N), with N examples.

/** z + Wa. */
function forward(z, W, at, rows, columns, a, N) {
  for (let o = 0; o < rows; o++) {
    for (let i = 0; i < columns; i++) {
      const w = W[at + o * columns + i];
      for (let e = 0, to = o * N, from = i * N; e < N; e++) z[to + e] += w * a[from + e];
    }
  }
}

/** b + Wᵀd. */
function backward(b, W, at, rows, columns, d, N) {
  for (let o = 0; o < rows; o++) {
    for (let i = 0; i < columns; i++) {
      const w = W[at + o * columns + i];
      for (let e = 0, to = i * N, from = o * N; e < N; e++) b[to + e] += w * d[from + e];
    }
  }
}

/** G + daᵀ, where G (rows, columns) begins at `at`. */
function outer(G, at, rows, columns, d, a, N) {
  for (let o = 0; o < rows; o++) {
    for (let i = 0; i < columns; i++) {
      let sum = 0;
      for (let e = 0, x = o * N, y = i * N; e < N; e++) sum += d[x + e] * a[y + e];
      G[at + o * columns + i] += sum;
    }
  }
}

/**
 * A tanh network with mean squared error on a few points: the loss of
 * `nn.Sequential(nn.Linear(1, w), nn.Tanh(), nn.Linear(w, w), nn.Tanh(), nn.Linear(w, 1))`, in the order of its weights.
 */
export class Network {
  /**
   * @param {number[]} sizes units of each layer, the input's and the output's among them
   * @param {number[]} inputs
   * @param {number[]} targets
   */
  constructor(sizes, inputs, targets) {
    Object.assign(this, { sizes, inputs: Float64Array.from(inputs), targets });
    this.offsets = [0];
    for (let l = 1; l < sizes.length; l++) this.offsets.push(this.offsets[l - 1] + (sizes[l - 1] + 1) * sizes[l]);
    this.dim = this.offsets.at(-1);
  }

  /** Outputs for some inputs. */
  outputs(w, inputs = this.inputs) {
    const layers = this.layers(inputs.length);
    this.rise([layers], w, null, 0, Float64Array.from(inputs));
    return layers.at(-1).z;
  }

  at(w) {
    return new Expansion(this, w);
  }

  /** Room for one Taylor coefficient of everything, for N examples. */
  layers(N) {
    const names = ["z", "a", "slope", "delta", "back"];
    return this.sizes.map((size) => Object.fromEntries(names.map((name) => [name, new Float64Array(size * N)])));
  }

  /** From the input to the output: the m-th Taylor coefficients in s at the weights w + s u, from those before. */
  rise(orders, w, u, m, inputs) {
    const { sizes, offsets } = this,
      N = inputs.length,
      last = sizes.length - 1;
    if (m === 0) orders[0][0].a.set(inputs);
    for (let l = 1; l <= last; l++) {
      const [rows, columns, at] = [sizes[l], sizes[l - 1], offsets[l - 1]];
      const bias = m === 0 ? w : m === 1 ? u : null;
      const { z, a, slope } = orders[m][l];
      for (let o = 0; o < rows; o++) z.fill(bias ? bias[at + rows * columns + o] : 0, o * N, (o + 1) * N);
      if (m === 0 || l > 1) forward(z, w, at, rows, columns, orders[m][l - 1].a, N);
      if (m === 1 || (m > 1 && l > 1)) forward(z, u, at, rows, columns, orders[m - 1][l - 1].a, N);
      if (l === last) break;
      const [Z, A, S] = ["z", "a", "slope"].map((name) => orders.map((layers) => layers[l][name]));
      for (let i = 0; i < rows * N; i++) {
        // a = tanh z has a′ = slope z′ with slope = 1 - a²
        if (m === 0) a[i] = Math.tanh(z[i]);
        else if (m === 1) a[i] = z[i] * S[0][i];
        else a[i] = z[i] * S[0][i] + (Z[1][i] * S[1][i]) / 2;
        slope[i] = m === 0 ? 1 - a[i] * a[i] : m === 1 ? -2 * a[i] * A[0][i] : -2 * a[i] * A[0][i] - A[1][i] * A[1][i];
      }
    }
  }

  /** From the output to the input: the m-th Taylor coefficients of the derivatives by each z, `delta`. */
  fall(orders, w, u, m) {
    const { sizes, offsets, targets } = this,
      N = targets.length,
      last = sizes.length - 1;
    const { z, delta } = orders[m][last];
    for (let e = 0; e < N; e++) delta[e] = (2 / N) * (m ? z[e] : z[e] - targets[e]);
    for (let l = last; l > 1; l--) {
      const [rows, columns, at] = [sizes[l], sizes[l - 1], offsets[l - 1]];
      const back = orders[m][l - 1].back.fill(0); // derivatives by each a
      backward(back, w, at, rows, columns, orders[m][l].delta, N);
      if (m) backward(back, u, at, rows, columns, orders[m - 1][l].delta, N);
      const below = orders[m][l - 1].delta.fill(0);
      for (let j = 0; j <= m; j++) {
        const by = orders[j][l - 1].back,
          slope = orders[m - j][l - 1].slope;
        for (let i = 0; i < columns * N; i++) below[i] += by[i] * slope[i];
      }
    }
  }

  /** The m-th Taylor coefficient of ∇L(w + s u). */
  gradient(orders, m) {
    const { sizes, offsets, dim } = this,
      N = this.targets.length,
      G = new Float64Array(dim);
    for (let l = 1; l < sizes.length; l++) {
      const [rows, columns, at] = [sizes[l], sizes[l - 1], offsets[l - 1]];
      for (let j = 0; j <= m; j++)
        if (l > 1 || j === m) outer(G, at, rows, columns, orders[j][l].delta, orders[m - j][l - 1].a, N);
      const { delta } = orders[m][l];
      for (let o = 0; o < rows; o++) for (let e = 0; e < N; e++) G[at + rows * columns + o] += delta[o * N + e];
    }
    return G;
  }
}

/** The loss of a network near w: Taylor's series in s of its gradient at w + s u, by backpropagation through series. */
class Expansion {
  constructor(network, w) {
    const N = network.targets.length;
    this.network = network;
    this.w = w;
    network.spare ??= [network.layers(N), network.layers(N)];
    this.orders = [network.layers(N), ...network.spare];
    network.rise(this.orders, w, null, 0, network.inputs);
    network.fall(this.orders, w, null, 0);
    this.g = network.gradient(this.orders, 0);
    this.loss = this.orders[0].at(-1).z.reduce((sum, y, e) => sum + (y - network.targets[e]) ** 2, 0) / N;
  }

  /** The series up to an order; its last coefficient. */
  along(u, order) {
    for (let m = 1; m <= order; m++) {
      this.network.rise(this.orders, this.w, u, m, this.network.inputs);
      this.network.fall(this.orders, this.w, u, m);
    }
    return this.network.gradient(this.orders, order);
  }

  product(u) {
    return this.along(u, 1);
  }

  third(u) {
    return this.along(u, 2).map((x) => 2 * x);
  }
}

/** ½ y x² - b y: a valley that descends towards higher sharpness, which is y. */
export class Valley {
  constructor(slope) {
    Object.assign(this, { slope, dim: 2 });
  }

  at([x, y]) {
    return {
      loss: (y * x * x) / 2 - this.slope * y,
      g: Float64Array.of(x * y, (x * x) / 2 - this.slope),
      product: ([u, v]) => Float64Array.of(y * u + x * v, x * u),
      third: ([u, v]) => Float64Array.of(2 * u * v, u * u),
    };
  }
}

/** ½ wᵀHw with two weights: no third derivatives. */
export class Quadratic {
  constructor(hessian) {
    Object.assign(this, { hessian, dim: 2 });
  }

  at(w) {
    const product = ([x, y]) => Float64Array.from(this.hessian, ([a, b]) => a * x + b * y);
    const g = product(w);
    return { loss: (w[0] * g[0] + w[1] * g[1]) / 2, g, product, third: () => new Float64Array(2) };
  }
}

/** ∇(u_aᵀ H u_b) for a few vectors, an array of arrays: those of u_a + u_b less those of each, halved. */
export function thirdDerivatives(here, U) {
  const T = U.map((u, a) => U.map((_, b) => (a === b ? here.third(u) : null)));
  for (let a = 0; a < U.length; a++) {
    for (let b = 0; b < a; b++) {
      const sum = here.third(U[a].map((x, i) => x + U[b][i]));
      T[a][b] = T[b][a] = sum.map((x, i) => (x - T[a][a][i] - T[b][b][i]) / 2);
    }
  }
  return T;
}
