// The laboratory's side of the page: it gives orders to the engine, and draws what comes back.

import { DEFAULTS, forEngine, python, read, table, write } from "./address.js";
import { connect } from "./client.js";
import { NAMES, addControls, isNetwork, penalised, rate } from "./controls.js";
import { drawing } from "./drawing.js";
import { button, element, save } from "./elements.js";
import { PANELS } from "./panels.js";
import { edge, happened, warnings, words } from "./words.js";
import { short } from "./chart.js";

const ALL = {
  panels: "loss spectrum fit displacement nu steps",
  controls: "loss optimizer lr beta1 beta2 width seed penalty speed draw moment export",
};
const MAX_SAID = 3; // events in view
const FRAME = 8; // milliseconds of drawing at a time
const CALM = 1000; // milliseconds between two pictures for those who want less motion

/** A laboratory in an element of the page. */
function laboratory(root) {
  const data = window.cflowsData;
  const full = root.dataset.controls === "all";
  const listed = (what, otherwise) => (full ? ALL[what] : root.dataset[what] || otherwise).split(" ");
  const wanted = new Set(listed("controls", "lr"));
  const reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const view = {
    data,
    names: NAMES,
    settings: { ...DEFAULTS },
    rows: [],
    ghost: null,
    curve: null,
    dim: 0,
    marks: [],
    ablated: false,
    targets: [],
    drawing: false,
    chosen: null,
  };
  let playing = false,
    remembered = null,
    known = {},
    frame = 0,
    stale = 0,
    changed = false,
    drawn = 0;

  // ---- The engine ----

  const order = connect(window.cflowsEngine, {
    failed: (why) => (trouble.textContent = `The laboratory has failed: ${why}`),
    news({ from, rows, curve, dim, settings, playing: on }) {
      const [begins, was] = [view.rows.length === 0, playing];
      view.rows.length = from;
      for (const row of rows) view.rows.push(row);
      Object.assign(view, { curve, dim });
      view.settings.changes = settings.changes;
      view.marks = settings.changes.map((c) => c.step).filter((step) => step > 0);
      view.ablated = Boolean(view.rows.at(-1)?.ablated);
      if (from === 0 && rows.length && !known.edge) {
        known.edge = true;
        say(edge(view, rows[0]));
      }
      for (const text of happened(rows, known)) say(text);
      playing = on;
      if (begins || was !== playing) show();
      redraw();
      if (!playing) address();
    },
  });
  order("data", data);

  // ---- What one sees ----

  root.replaceChildren();
  const bar = element(root, "div", { className: "bar" });
  const play = button(bar, "Play", () => (playing ? order("pause") : start()));
  play.className = "play";
  button(bar, "Step", () => order("step", 1));
  button(bar, "25 steps", () => order("step", 25));
  button(bar, "Run again", () => again());
  if (wanted.has("moment")) button(bar, "Remember", remember);
  const goBack = wanted.has("moment") ? button(bar, "Back", back) : null;
  const box = element(root, "div", { className: "controls" });
  const controls = addControls(box, wanted, data, view, { fresh, again, change, draws, speed: () => playing && start() });
  const trouble = element(root, "p", { className: "trouble" }, { role: "alert" });
  const events = element(root, "div", { className: "events" }, { role: "log", "aria-label": "What has happened" });
  const panels = element(root, "div", { className: "panels" });
  const canvases = listed("panels", "loss").map((name) => {
    const panel = PANELS[name],
      figure = element(panels, "figure", { className: `panel ${name}` });
    const title = element(figure, "figcaption", { textContent: panel.title });
    const legend = element(figure, "div", { className: "legend" });
    return {
      name,
      panel,
      title,
      legend,
      canvas: element(figure, "canvas", {}, { role: "img", "aria-label": panel.title }),
    };
  });
  const readout = element(root, "p", { className: "readout" });
  if (wanted.has("export")) takeAway();
  const fit = canvases.find(({ name }) => name === "fit")?.canvas;
  const describe =
    fit &&
    drawing(fit, view, {
      moved(targets, chosen) {
        Object.assign(view, { targets, chosen });
        describe();
        redraw();
      },
      done: () => fresh({ loss: "drawn", targets: view.targets }),
    });
  new ResizeObserver(redraw).observe(panels);

  /** All anew: as many panels in a frame as it has time for, the others in the next. */
  function redraw() {
    if (stale) changed = true;
    else stale = canvases.length + 1;
    frame ||= requestAnimationFrame(paint);
  }
  function paint(now) {
    frame = 0;
    const wait = reduced && playing && stale > canvases.length && now - drawn < CALM;
    if (!wait) {
      for (const begin = performance.now(); stale && performance.now() - begin < FRAME; stale--) {
        if (stale > canvases.length) drawn = now;
        const next = canvases[stale - 1];
        if (next) next.panel.draw(next.canvas, view);
        else tell();
      }
    }
    if (!stale && changed) {
      changed = false;
      stale = canvases.length + 1;
    }
    if (stale) frame = requestAnimationFrame(paint);
  }
  function tell() {
    readout.textContent = words(view);
    const wrong = warnings(view.rows.at(-1)).join(" ");
    if (trouble.textContent !== wrong) trouble.textContent = wrong;
  }

  /** Controls and legends as the settings are. */
  function show() {
    play.textContent = playing ? "Pause" : "Play";
    readout.setAttribute("aria-live", playing ? "off" : "polite");
    controls.show(view.settings);
    if (goBack) {
      goBack.disabled = !remembered;
      goBack.textContent = remembered ? `Back to step ${remembered.step}` : "Back";
    }
    for (const { name, panel, legend, title } of canvases) {
      if (name === "fit") title.textContent = isNetwork(view.settings) ? panel.title : "The two weights";
      legend.replaceChildren();
      for (const [color, text, kind] of panel.legend(view)) {
        const entry = element(legend, "span");
        element(entry, "i", { className: kind === true ? "dotted" : (kind ?? "") }).style.setProperty("--ink", color);
        entry.append(text);
      }
    }
    describe?.();
  }

  function say(text) {
    element(events, "p", { textContent: text });
    while (events.children.length > MAX_SAID) events.firstChild.remove();
  }

  // ---- What one does ----

  /** A run from its beginning, up to its steps; the last one may stay as a ghost. */
  async function run({ steps = 0, ...settings }, ghost = null) {
    [known, remembered] = [{}, null];
    Object.assign(view, { settings, ghost, rows: [], marks: [] });
    view.targets = settings.loss === "drawn" ? settings.targets : (data.curves[settings.loss] ?? []);
    events.replaceChildren();
    await order("load", { settings: forEngine(settings), steps });
    show();
  }

  /** A run with other settings, up to where this one plays. */
  async function fresh(settings) {
    const on = playing;
    await run({ ...view.settings, lr: rate(view.settings), changes: [], ...settings });
    if (on) start();
  }

  /** Play, up to a step if there is one to stop at. */
  function start(end) {
    playing = true;
    show();
    return order("play", { speed: controls.speed(), end });
  }

  /** From the beginning at the present learning rate, over the ghost of this run, or of the last if this is short. */
  async function again(settings = {}) {
    const ghost = view.rows.length > (view.ghost?.length ?? 4) / 2 ? view.rows : view.ghost;
    const changes = penalised(view.settings) ? [] : [{ step: 0, penalty: false }];
    await run({ ...view.settings, lr: rate(view.settings), changes, ...settings }, ghost);
    start();
  }

  /** Another learning rate, or the penalty on or off, from the present step on. */
  async function change(what) {
    if (view.rows.length < 2 && "lr" in what) return run({ ...view.settings, ...what }, view.ghost);
    await order("change", what);
    const { step } = view.rows.at(-1);
    say(
      "lr" in what
        ? `From step ${step} on η is ${short(what.lr)}.`
        : what.penalty
          ? `From step ${step} on there is no flow without penalty.`
          : `From step ${step} on a second flow runs without the penalty, dashed.${step ? " Run again has it from the start." : ""}`,
    );
    show();
  }

  function remember() {
    remembered = { step: view.rows.at(-1).step, changes: view.settings.changes };
    say(`Step ${remembered.step} is remembered.`);
    show();
  }

  async function back() {
    await order("back", remembered);
    known = {};
    say(`Back at step ${remembered.step}.`);
    show();
  }

  function draws(on) {
    if (on) view.targets = view.targets.map((y) => Number(y.toFixed(2)));
    Object.assign(view, { drawing: on, chosen: on ? 0 : null });
    controls.draw.set(on);
    if (on)
      say("Draw in the picture of the fit. With the keyboard, arrow keys choose and move points, and Enter trains.");
    describe();
    redraw();
    if (on) fit.focus();
  }

  const current = () => ({ ...view.settings, steps: view.rows.at(-1)?.step ?? 0 });
  const address = () => full && history.replaceState(null, "", `#lab?${write(current())}`);

  function takeAway() {
    const details = element(root, "details", { className: "export" });
    element(details, "summary", { textContent: "Take it away: table, Python, address" });
    const line = element(details, "div", { className: "bar" });
    button(line, "Table (CSV)", () => save("laboratory.csv", table(view.rows), "text/csv"));
    button(line, "Python", () => save("laboratory.py", python(current(), data), "text/x-python"));
    button(line, "Copy the address", async () => {
      address();
      const copied = await navigator.clipboard?.writeText(location.href).then(
        () => true,
        () => false,
      );
      say(copied ? "The address is copied." : "The address of this run stands in the address line.");
    });
    const code = element(details, "pre", { tabIndex: 0 }, { "aria-label": "The lines of Python that repeat this run" });
    details.addEventListener("toggle", () => (code.textContent = python(current(), data)));
  }

  root.dataset.ready = "yes";
  return {
    /** Begin a run with settings, an object or as they stand in an address; with `steps`, go on to there. */
    load: (settings = {}) =>
      run(read(typeof settings === "string" ? settings : write({ ...DEFAULTS, ...settings }), data)),
    /** Play a run from its beginning up to its steps, over the ghost of the last one if that had the same loss. */
    async show(text) {
      const { steps, ...settings } = read(text, data);
      await run(settings, view.rows.length > 2 && settings.loss === view.settings.loss ? view.rows : null);
      if (steps && reduced) await order("step", steps);
      else if (steps) await start(steps);
    },
    step: (count = 1) => order("step", count),
    pause: () => order("pause"),
    play: start,
    change,
    rows: () => view.rows,
    state() {
      const { step, lr, threshold, optimizer, central, stable, ablated = null } = view.rows.at(-1) ?? {};
      return { step, lr, threshold, playing, settings: current(), optimizer, central, stable, ablated };
    },
  };
}

const made = new Map();

/** Begin in an element: with the settings of an address or a button, or with those that the element names. */
window.cflowsBegin = async (root, settings, { play = true } = {}) => {
  const first = !made.has(root);
  if (first) made.set(root, laboratory(root));
  const lab = made.get(root);
  if (first) root.querySelector("button.play").focus({ preventScroll: true });
  else root.scrollIntoView({ block: "nearest" });
  if (play) await lab.show(settings ?? (root.dataset.laboratory || "steps=400"));
  else await lab.load(settings);
  return (window.cflowsLab = lab);
};
