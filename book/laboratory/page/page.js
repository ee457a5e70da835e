// The laboratory's side of the page: it gives orders to the engine's worker, and draws what comes back.

import { DEFAULTS, forEngine, python, read, table, write } from "./address.js";
import { button, choice, element, save, slider, toggle } from "./elements.js";
import { drawing } from "./drawing.js";
import { PANELS, warnings, words } from "./panels.js";
import { short } from "./chart.js";

const NAMES = { rmsprop: "RMSProp", scalar: "Scalar RMSProp", gd: "gradient descent" };
const LOSSES = {
  wave: "a wave", bump: "a bump", corner: "a corner", step: "a step", drawn: "a curve of your own", valley: "two weights: a valley", bowl: "two weights: a bowl",
};
const RATES = Array.from({ length: 81 }, (_, i) => Number((10 ** (-4 + i / 20)).toPrecision(2))); // of learning
const SPEEDS = { 12: "slow", 60: "medium", 0: "as fast as it can" };
const ALL = { panels: "loss spectrum fit displacement nu", controls: "optimizer loss width seed beta2 lr penalty speed moment export" };
const NOT_TRUSTED = {
  optimizer: "", stable: "the stable flow ends: ", central: "the central flow is not to be trusted: ",
  ablated: "the flow without penalty is not to be trusted: ",
};
const MAX_SAID = 3; // events in view
const USUAL_RATE = { rmsprop: 3e-3, scalar: 3e-2, gd: 0.1 }; // where the edge is reached early

/** A laboratory in an element of the page. */
function laboratory(root) {
  const data = window.cflowsData;
  const full = root.dataset.controls === "all";
  const shown = (full ? ALL.panels : root.dataset.panels || "loss").split(" ");
  const wanted = new Set((full ? ALL.controls : root.dataset.controls || "lr").split(" "));
  const reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const view = {
    data, rows: [], ghost: null, settings: { ...DEFAULTS }, names: NAMES, curve: null, targets: [], chosen: null, drawing: false, marks: [], ablated: false, dim: 0,
  };
  let remembered = null, playing = false, frame = 0, asked = 0, last = 0;
  const waiting = new Map();

  // ---- The engine ----

  const worker = new Worker(URL.createObjectURL(new Blob([window.cflowsEngine], { type: "text/javascript" })));
  worker.onerror = (event) => fail(event.message ?? "its thread could not be started");
  worker.onmessage = ({ data: news }) => {
    if (news.failed) return fail(news.failed);
    const begins = view.rows.length === 0;
    view.rows.length = news.from;
    for (const row of news.rows) view.rows.push(row);
    view.curve = news.curve;
    view.dim = news.dim;
    view.settings.changes = news.settings.changes;
    view.marks = news.settings.changes.map((c) => c.step).filter((s) => s > 0);
    view.ablated = news.rows.length ? Boolean(news.rows.at(-1).ablated) : view.ablated;
    tellEvents(news.rows);
    const was = playing;
    playing = news.playing;
    if (begins || was !== playing) show();
    redraw();
    if (news.id && waiting.has(news.id)) {
      waiting.get(news.id)();
      waiting.delete(news.id);
      address();
    } else if (was && !playing) address();
  };
  function order(name, value) {
    asked += 1;
    const id = asked;
    return new Promise((resolve) => {
      waiting.set(id, resolve);
      worker.postMessage({ order: name, value, id });
    });
  }
  function fail(why) {
    trouble.textContent = `The laboratory has failed: ${why}`;
  }
  order("data", data);

  // ---- What one sees ----

  root.replaceChildren();
  const bar = element(root, "div", { className: "bar" });
  const play = button(bar, "Play", () => (playing ? pause() : start()));
  play.className = "play";
  button(bar, "Step", () => order("step", 1));
  button(bar, "25 steps", () => order("step", 25));
  button(bar, "Run again", () => again());
  const controls = element(root, "div", { className: "controls" });
  const set = {};
  const fresh = (change) => run({ ...view.settings, changes: [], ...change });
  const adders = {
    loss: () => (set.loss = choice(controls, "fit", LOSSES, (loss) => fresh({ loss, ...(loss === "drawn" ? { targets: view.targets } : {}) }))),
    optimizer: () => (set.optimizer = choice(controls, "optimizer", NAMES, (optimizer) => fresh({ optimizer, lr: USUAL_RATE[optimizer] }))),
    lr: () => (set.lr = slider(controls, "learning rate η", RATES, short, (lr) => change({ lr }))),
    beta2: () => (set.beta2 = choice(controls, "β₂", { 0.9: "0.9", 0.95: "0.95", 0.99: "0.99", 0.999: "0.999" }, (x) => fresh({ beta2: Number(x) }))),
    width: () => (set.width = choice(controls, "units a layer", Object.fromEntries(Object.keys(data.weights).map((w) => [w, w])), (x) => fresh({ width: Number(x) }))),
    seed: () => (set.seed = choice(controls, "seed", Object.fromEntries(data.weights[20].map((_, s) => [s, String(s)])), (x) => fresh({ seed: Number(x) }))),
    penalty: () => (set.penalty = toggle(controls, "curvature penalty", (on) => change({ penalty: on }))),
    speed: () => (set.speed = choice(controls, "speed", SPEEDS, () => playing && start())),
  };
  for (const [name, add] of Object.entries(adders)) if (wanted.has(name)) add();
  set.speed?.set("60");
  if (wanted.has("moment")) {
    button(bar, "Remember", () => remember());
    set.back = button(bar, "Back", () => back());
    set.back.disabled = true;
  }
  if (wanted.has("loss")) {
    set.draw = button(controls, "Draw a curve", () => draws(!view.drawing));
    set.draw.setAttribute("aria-pressed", "false");
  }

  const trouble = element(root, "p", { className: "trouble" }, { role: "alert" });
  const panels = element(root, "div", { className: "panels" });
  const canvases = shown.map((name) => {
    const panel = PANELS[name], figure = element(panels, "figure", { className: `panel ${name}` });
    const title = element(figure, "figcaption"), legend = element(figure, "div", { className: "legend" });
    const canvas = element(figure, "canvas", {}, { role: "img", "aria-label": panel.title });
    title.textContent = panel.title;
    return { panel, title, legend, canvas, name };
  });
  const readout = element(root, "p", { className: "readout" });
  const events = element(root, "div", { className: "events" }, { role: "log", "aria-label": "What has happened" });
  if (wanted.has("export")) exports();
  const fit = canvases.find(({ name }) => name === "fit");
  const describe = fit && drawing(fit.canvas, view, {
    moved(targets, chosen) {
      Object.assign(view, { targets, chosen });
      describe();
      redraw();
    },
    done: () => fresh({ loss: "drawn", targets: view.targets }),
  });

  function redraw() {
    frame ||= requestAnimationFrame((now) => {
      frame = 0;
      if (reduced && playing && now - last < 1000) return;
      last = now;
      for (const { panel, canvas } of canvases) panel.draw(canvas, view);
      readout.textContent = words(view);
      const wrong = warnings(view.rows.at(-1)).join(" ");
      if (trouble.textContent !== wrong) trouble.textContent = wrong;
    });
  }
  new ResizeObserver(redraw).observe(panels);

  /** Controls and legends as the settings are. */
  function show() {
    const { settings } = view;
    play.textContent = playing ? "Pause" : "Play";
    readout.setAttribute("aria-live", playing ? "off" : "polite");
    for (const name of ["loss", "optimizer", "beta2", "width", "seed"]) set[name]?.set(String(settings[name]));
    set.lr?.set(rate());
    set.penalty?.set(settings.changes.filter((c) => "penalty" in c).at(-1)?.penalty ?? true);
    const network = settings.loss !== "valley" && settings.loss !== "bowl";
    for (const name of ["width", "seed"]) if (set[name]) set[name].select.disabled = !network;
    if (set.draw) set.draw.disabled = !network;
    if (set.beta2) set.beta2.select.disabled = settings.optimizer === "gd";
    for (const { panel, legend, title, name } of canvases) {
      if (name === "fit") title.textContent = network ? "The fit" : "The two weights";
      legend.replaceChildren();
      for (const [color, text, kind] of panel.legend(view)) {
        const entry = element(legend, "span");
        element(entry, "i", { className: kind === true ? "dotted" : kind ?? "" }).style.setProperty("--ink", color);
        entry.append(text);
      }
    }
    describe?.();
  }
  const rate = () => view.settings.changes.filter((c) => "lr" in c).at(-1)?.lr ?? view.settings.lr;

  // ---- What happens, in words ----

  let known = {};
  function tellEvents(rows) {
    for (const row of rows) {
      const count = row.central?.variances?.filter((x) => x > 0).length ?? 0;
      if (count > (known.count ?? 0)) say(count === 1 ? `Step ${row.step}: the largest eigenvalue has reached 2, and the optimizer begins to oscillate.` : `Step ${row.step}: ${count} eigenvalues are at 2.`);
      known.count = Math.max(count, known.count ?? 0);
      for (const [process, label] of Object.entries(NOT_TRUSTED)) {
        const why = row[process]?.end || row[process]?.doubt || "";
        if (why && !known[process]) say(`Step ${row.step}: ${label}${why}.`);
        known[process] = why;
      }
    }
  }
  function say(text) {
    if (!text) return;
    element(events, "p", { textContent: text });
    while (events.children.length > MAX_SAID) events.firstChild.remove();
  }

  // ---- What one does ----

  /** A run from its beginning, up to its steps; the last one of the same loss stays as a ghost. */
  async function run(settings, { ghost = null } = {}) {
    known = {};
    remembered = null;
    if (set.back) {
      set.back.disabled = true;
      set.back.textContent = "Back";
    }
    const { steps = 0, ...rest } = settings;
    Object.assign(view, { settings: { ...rest }, ghost, rows: [], chosen: view.drawing ? view.chosen : null });
    view.targets = settings.loss === "drawn" ? settings.targets : data.curves[settings.loss] ?? [];
    view.marks = [];
    events.replaceChildren();
    await order("load", { settings: forEngine(rest), steps });
    show();
  }
  /** Play, up to a step if there is one to stop at. */
  function start(end) {
    order("play", { speed: Number(set.speed?.select.value ?? 60), end });
    playing = true;
    show();
  }
  const pause = () => order("pause");
  /** From the beginning at the present learning rate, over the ghost of this run. */
  async function again() {
    const steps = view.rows.length, ghost = steps > 2 ? view.rows.slice() : view.ghost;
    const penalty = view.settings.changes.filter((c) => "penalty" in c).at(-1)?.penalty ?? true;
    await run({ ...view.settings, lr: rate(), changes: penalty ? [] : [{ step: 0, penalty: false }] }, { ghost });
    show();
    start();
  }
  async function change(what) {
    const step = view.rows.at(-1)?.step ?? 0;
    if (step === 0 && "lr" in what) return run({ ...view.settings, ...what }, { ghost: view.ghost });
    await order("change", what);
    say("lr" in what ? `η is ${short(what.lr)} from step ${view.rows.at(-1).step} on.` : what.penalty ? "The penalty is on again." : `From step ${view.rows.at(-1).step} on a second flow runs without the penalty.`);
    show();
  }
  function remember() {
    remembered = view.rows.at(-1).step;
    set.back.disabled = false;
    set.back.textContent = `Back to step ${remembered}`;
    say(`Step ${remembered} is remembered.`);
  }
  async function back() {
    await order("back", remembered);
    known = {};
    say(`Back at step ${remembered}.`);
    show();
  }
  function draws(on) {
    view.drawing = on;
    if (on) view.targets = view.targets.map((y) => Number(y.toFixed(2)));
    if (on) view.chosen ??= 0;
    else view.chosen = null;
    set.draw.setAttribute("aria-pressed", String(on));
    set.draw.textContent = on ? "Stop drawing" : "Draw a curve";
    say(on ? "Draw in the picture of the fit; with the keyboard, arrow keys choose and move points, and Enter trains." : "");
    describe();
    redraw();
    if (on) fit.canvas.focus();
  }

  function current() {
    return { ...view.settings, steps: view.rows.at(-1)?.step ?? 0 };
  }
  function address() {
    if (full) history.replaceState(null, "", `#lab?${write(current())}`);
  }

  function exports() {
    const box = element(root, "details", { className: "export" });
    element(box, "summary", { textContent: "Take it away: table, Python, address" });
    const line = element(box, "div", { className: "bar" });
    button(line, "Table (CSV)", () => save("laboratory.csv", table(view.rows), "text/csv"));
    button(line, "Python", () => save("laboratory.py", python(current(), data), "text/x-python"));
    button(line, "Copy the address", async () => {
      address();
      try {
        await navigator.clipboard.writeText(location.href);
        say("The address is copied.");
      } catch {
        say("The address of this run stands in the address line.");
      }
    });
    const code = element(box, "pre", { tabIndex: 0 }, { "aria-label": "The lines of Python that repeat this run" });
    box.addEventListener("toggle", () => (code.textContent = python(current(), data)));
  }

  root.dataset.ready = "yes";
  return {
    /** Begin a run with settings, an object or as they stand in an address; with `steps`, go on to there. */
    async load(settings = {}) {
      const given = typeof settings === "string" ? read(settings, data) : read(write({ ...DEFAULTS, ...settings }), data);
      await run(given);
      address();
    },
    step: (count = 1) => order("step", count),
    change,
    /** Play from a setting's beginning up to its steps. */
    async show(text) {
      const { steps, ...settings } = read(text, data);
      await run(settings, { ghost: view.rows.length > 2 && settings.loss === view.settings.loss ? view.rows.slice() : null });
      if (steps && reduced) await order("step", steps);
      else if (steps) start(steps);
    },
    play: start, pause,  rows: () => view.rows, python: () => python(current(), data), table: () => table(view.rows),
    state() {
      const { step, lr, optimizer, central, stable, ablated } = view.rows.at(-1) ?? {};
      return { step, lr, playing, address: write(current()), settings: current(), optimizer, central, stable, ablated: ablated ?? null };
    },
  };
}

const made = new Map();

/** Begin in an element: with the settings of a button or an address, or with those that the element names. */
window.cflowsBegin = async (root, settings) => {
  const first = !made.has(root);
  if (first) made.set(root, laboratory(root));
  const lab = made.get(root);
  if (!first) {
    root.scrollIntoView({ block: "nearest" });
    await lab.show(settings);
  } else if (settings !== undefined && location.hash.slice(5) === settings && location.hash.startsWith("#lab?")) await lab.load(settings);
  else {
    root.querySelector("button.play").focus({ preventScroll: true });
    await lab.show(settings ?? (root.dataset.laboratory || "steps=400"));
  }
  return (window.cflowsLab = lab);
};
