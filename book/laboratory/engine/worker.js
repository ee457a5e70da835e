// The laboratory in a thread of its own: it takes orders, and answers with the rows that are new.

import { Laboratory } from "./laboratory.js";

const CHUNK = 30; // milliseconds between two answers, about
const MAX_STEPS = 5000;

let run = 0,
  lab = null,
  data = null,
  playing = false,
  rate = Infinity,
  until = MAX_STEPS,
  sent = 0,
  due = 0;

function answer(extra = {}) {
  const rows = lab.rows.slice(sent);
  postMessage({
    run,
    from: sent,
    rows,
    step: lab.step,
    settings: lab.settings,
    dim: lab.f.dim,
    playing,
    curve: lab.fit(data.fine),
    ...extra,
  });
  sent = lab.rows.length;
}

/** Steps for so long, or so many of them; then an answer, and the next in line. */
function work() {
  if (!playing) return;
  const begin = performance.now();
  const wanted = Math.max(1, Math.min(Math.round((rate * (begin - due)) / 1000), 1000));
  due = begin;
  for (let i = 0; i < wanted && performance.now() - begin < CHUNK; i++) {
    if (lab.step >= until || !lab.advance()) {
      playing = false;
      break;
    }
  }
  answer();
  if (playing) setTimeout(work, Number.isFinite(rate) ? Math.max(CHUNK, 1000 / rate) : 0);
}

const orders = {
  data(what) {
    data = what;
  },
  /** A run from its beginning, up to a step. */
  load({ settings, steps = 0 }) {
    playing = false;
    lab = new Laboratory(settings, data);
    sent = 0;
    while (lab.step < steps && lab.advance()) if (lab.step % 25 === 0) answer({ loading: true });
  },
  step(count) {
    playing = false;
    for (let i = 0; i < count && lab.step < MAX_STEPS && lab.advance(); i++)
      if (i % 25 === 24) answer({ loading: true });
  },
  play({ speed, end }) {
    rate = speed || Infinity;
    until = Math.min(end ?? MAX_STEPS, MAX_STEPS);
    due = performance.now() - CHUNK;
    if (!playing) setTimeout(work);
    playing = true;
  },
  pause() {
    playing = false;
  },
  change(what) {
    lab.change(what);
    sent = Math.min(sent, lab.step);
  },
  back({ step, changes }) {
    playing = false;
    lab.settings.changes = changes;
    lab.back(step);
    sent = 0;
  },
};

onmessage = ({ data: { order, value, id, run: now } }) => {
  run = now;
  try {
    orders[order](value);
    if (lab) answer({ id });
    else postMessage({ id });
  } catch (error) {
    playing = false;
    postMessage({ failed: String(error.stack ?? error), id, run });
  }
};
