// Settings as they stand in an address, and what ran as lines of Python and as a table.

export const DEFAULTS = {
  loss: "wave",
  width: 20,
  seed: 0,
  optimizer: "rmsprop",
  lr: 3e-3,
  beta1: 0.9,
  beta2: 0.99,
  changes: [],
  targets: null,
  steps: 0,
};
export const CHOICES = {
  loss: ["wave", "bump", "corner", "step", "drawn", "valley", "bowl"],
  optimizer: ["rmsprop", "adam", "scalar", "gd"],
};

const isNetwork = (loss) => loss !== "valley" && loss !== "bowl";

/** What the engine is told. */
export const forEngine = ({ loss, ...rest }) => ({
  ...rest,
  problem: isNetwork(loss) ? "network" : loss,
  curve: isNetwork(loss) ? loss : null,
});

/** Settings from `lr=0.01&steps=300&changes=200:penalty:off`; what is missing or makes no sense has its default. */
export function read(text, data) {
  const given = new URLSearchParams(text),
    settings = { ...DEFAULTS, changes: [] };
  for (const [name, choices] of Object.entries(CHOICES))
    if (choices.includes(given.get(name))) settings[name] = given.get(name);
  const number = (name, good) => {
    const value = Number(given.get(name));
    if (given.has(name) && good(value)) settings[name] = value;
  };
  number("width", (x) => x in data.weights);
  number("seed", (x) => Number.isInteger(x) && x >= 0 && x < data.weights[settings.width].length);
  number("lr", (x) => x > 0 && x <= 10);
  number("beta1", (x) => x >= 0 && x <= 0.95);
  number("beta2", (x) => x >= 0.1 && x < 1);
  number("steps", (x) => Number.isInteger(x) && x >= 0 && x <= 5000);
  if (given.get("penalty") === "off") settings.changes.push({ step: 0, penalty: false });
  for (const change of (given.get("changes") ?? "").split(",").filter(Boolean)) {
    const [step, name, value] = change.split(":");
    if (!/^\d+$/.test(step)) continue;
    if (name === "lr" && Number(value) > 0) settings.changes.push({ step: Number(step), lr: Number(value) });
    if (name === "penalty") settings.changes.push({ step: Number(step), penalty: value !== "off" });
  }
  const targets = (given.get("targets") ?? "").split(",").map(Number);
  if (targets.length === data.inputs.length && targets.every(Number.isFinite)) settings.targets = targets;
  else if (settings.loss === "drawn") settings.loss = DEFAULTS.loss;
  return settings;
}

/** The address of settings, without what has its default. */
export function write(settings) {
  const said = Object.entries(settings).filter(
    ([name, value]) =>
      value !== DEFAULTS[name] &&
      value !== null &&
      name !== "changes" &&
      (name !== "targets" || settings.loss === "drawn"),
  );
  const changes = settings.changes.map(
    (c) => `${c.step}:${"lr" in c ? `lr:${c.lr}` : `penalty:${c.penalty ? "on" : "off"}`}`,
  );
  if (changes.length) said.push(["changes", changes.join(",")]);
  return said.map(([name, value]) => `${name}=${value}`).join("&");
}

/** The lines that repeat a run with the library. */
export function python({ loss, width, seed, optimizer, lr, beta1, beta2, changes, targets, steps }, data) {
  const network = (curve) => [
    `torch.manual_seed(${seed})`,
    "x = torch.linspace(-1, 1, 16, dtype=torch.float64)[:, None]",
    `y = ${curve}`,
    "module = nn.Sequential(",
    `    nn.Linear(1, ${width}), nn.Tanh(), nn.Linear(${width}, ${width}), nn.Tanh(), nn.Linear(${width}, 1)`,
    ").double()",
    "f = cflows.Objective.from_module(module, nn.MSELoss(), x, y)",
  ];
  const start = (w) => `torch.tensor(${JSON.stringify(w)}, dtype=torch.float64)`;
  const problem =
    loss === "valley"
      ? [
          `f = cflows.Objective(lambda w: w[1] * w[0] ** 2 / 2 - ${data.valley.slope} * w[1], ${start(data.valley.start)})`,
        ]
      : loss === "bowl"
        ? [
            `H = ${start(data.bowl.hessian)}`,
            `f = cflows.Objective(lambda w: w @ H @ w / 2, ${start(data.bowl.start)})`,
          ]
        : network(
            loss === "drawn"
              ? `torch.tensor(${JSON.stringify(targets)}, dtype=torch.float64)[:, None]`
              : data.expressions[loss],
          );
  const rates = changes.filter((c) => "lr" in c && c.step < Math.max(steps, 1)),
    off = changes.filter((c) => "penalty" in c).at(-1);
  const schedule = rates.reduceRight(
    (rest, c, i) => ` if t < ${c.step + 1} else ${c.lr}${i < rates.length - 1 ? rest : ""}`,
    "",
  );
  const eta = rates.length ? "lr" : lr;
  const made = {
    rmsprop: `cflows.RMSProp(${eta}, beta2=${beta2}, bias_correction=True)`,
    adam: `cflows.Adam(${eta}, beta1=${beta1}, beta2=${beta2})`,
    scalar: `cflows.ScalarRMSProp(${eta}, beta2=${beta2}, bias_correction=True)`,
    gd: `cflows.GradientDescent(${eta})`,
  }[optimizer];
  const processes = ["discrete", "stable", "central", ...(off && !off.penalty ? ["ablated"] : [])];
  return [
    "import torch",
    "from torch import nn",
    "",
    "import cflows",
    "",
    ...problem,
    ...(rates.length ? [`lr = lambda t: ${lr}${schedule}`] : []),
    `opt = ${made}`,
    ...(off && !off.penalty && off.step
      ? [`# in the page the flow without its penalty left the central flow at step ${off.step}; here it does at once`]
      : []),
    `tree = cflows.simulate(f, opt, ${steps + 1}, (${processes.map((p) => `"${p}"`).join(", ")}))`,
    "cflows.plot(tree)",
    "",
  ].join("\n");
}

/** What ran, a line a step. */
export function table(rows) {
  const flows = ["stable", "central", "ablated"].filter((name) => rows.some((row) => row[name]));
  const first = (list, k) => Array.from({ length: k }, (_, j) => list?.[j] ?? "");
  const columns = {
    step: (r) => r.step,
    lr: (r) => r.lr,
    optimizer_loss: (r) => r.optimizer.loss,
    optimizer_nu_sum: (r) => r.optimizer.nu_sum,
  };
  for (const name of flows) {
    for (const what of ["loss", "predicted_loss", "nu_sum", "distance"])
      columns[`${name}_${what}`] = (r) => r[name]?.[what];
    for (const j of [0, 1, 2]) {
      columns[`${name}_eigenvalue_${j + 1}`] = (r) => first(r[name]?.eigenvalues, 3)[j];
      if (name !== "stable") columns[`${name}_variance_${j + 1}`] = (r) => first(r[name]?.variances, 3)[j];
    }
  }
  const lines = rows.map((row) =>
    Object.values(columns)
      .map((of) => of(row) ?? "")
      .join(","),
  );
  return [Object.keys(columns).join(","), ...lines, ""].join("\n");
}
