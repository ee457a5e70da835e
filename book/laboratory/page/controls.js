// The controls of the laboratory: which there are, and what they ask for.

import { button, choice, slider, toggle } from "./elements.js";
import { short } from "./chart.js";

export const NAMES = { rmsprop: "RMSProp", adam: "Adam", scalar: "Scalar RMSProp", gd: "gradient descent" };
const LOSSES = {
  wave: "a wave",
  bump: "a bump",
  corner: "a corner",
  step: "a step",
  drawn: "a curve of your own",
  valley: "two weights: a valley",
  bowl: "two weights: a bowl",
};
const RATES = Array.from({ length: 81 }, (_, i) => Number((10 ** (-4 + i / 20)).toPrecision(2))); // of learning
const MOMENTA = Array.from({ length: 20 }, (_, i) => i / 20);
const BETAS = ["0.9", "0.95", "0.99", "0.999"];
const SPEEDS = { 12: "slow", 60: "medium", 0: "as fast as it can" };
const USUAL_RATE = { rmsprop: 3e-3, adam: 1e-2, scalar: 3e-2, gd: 0.1 }; // where the edge is reached early

export const isNetwork = (settings) => settings.loss !== "valley" && settings.loss !== "bowl";
/** The learning rate, and whether there is a penalty, after all changes. */
export const rate = ({ lr, changes }) => changes.filter((c) => "lr" in c).at(-1)?.lr ?? lr;
export const penalised = ({ changes }) => changes.filter((c) => "penalty" in c).at(-1)?.penalty ?? true;

const same = (values) => Object.fromEntries(values.map((x) => [x, String(x)]));

/**
 * @param {Element} parent
 * @param {Set<string>} wanted names of controls
 * @param {{fresh: function, again: function, change: function, speed: function, draws: function}} act what they ask for: a
 *   run with other settings, one over the ghost of this one, a change from now on, another speed, to draw a curve
 */
export function addControls(parent, wanted, data, view, act) {
  const set = {};
  const add = {
    loss: () =>
      choice(parent, "fit", LOSSES, (loss) => act.fresh({ loss, targets: loss === "drawn" ? view.targets : null })),
    optimizer: () =>
      choice(parent, "optimizer", NAMES, (optimizer) => act.fresh({ optimizer, lr: USUAL_RATE[optimizer] })),
    lr: () => slider(parent, "learning rate η", RATES, short, (lr) => act.change({ lr })),
    beta1: () => slider(parent, "momentum β₁", MOMENTA, String, (beta1) => act.again({ beta1 })),
    beta2: () => choice(parent, "β₂", same(BETAS), (beta2) => act.fresh({ beta2: Number(beta2) })),
    width: () =>
      choice(parent, "units a layer", same(Object.keys(data.weights)), (width) => act.fresh({ width: Number(width) })),
    seed: () =>
      choice(parent, "seed", same(Object.keys(data.weights[20])), (seed) => act.fresh({ seed: Number(seed) })),
    penalty: () => toggle(parent, "curvature penalty", (penalty) => act.change({ penalty })),
    speed: () => choice(parent, "speed", SPEEDS, act.speed),
    draw: () => {
      const made = button(parent, "Draw a curve", () => act.draws(!view.drawing));
      return {
        button: made,
        set: (on) => {
          made.setAttribute("aria-pressed", String(on));
          made.textContent = on ? "Stop drawing" : "Draw a curve";
        },
      };
    },
  };
  for (const [name, make] of Object.entries(add)) if (wanted.has(name)) set[name] = make();
  set.speed?.set("60");
  set.draw?.set(false);
  return {
    draw: set.draw,
    speed: () => Number(set.speed?.select.value ?? 60),
    /** As the settings are. */
    show(settings) {
      for (const name of ["loss", "optimizer", "beta2", "width", "seed"]) set[name]?.set(String(settings[name]));
      set.lr?.set(rate(settings));
      set.beta1?.set(settings.beta1);
      if (set.beta1) set.beta1.box.hidden = settings.optimizer !== "adam";
      set.penalty?.set(penalised(settings));
      for (const name of ["width", "seed"]) if (set[name]) set[name].select.disabled = !isNetwork(settings);
      if (set.draw) set.draw.button.disabled = !isNetwork(settings);
      if (set.beta2) set.beta2.select.disabled = settings.optimizer === "gd";
    },
  };
}
