// Draw your own curve: on the picture of the fit, with the pointer or with the arrow keys.

const STEP = 0.1;

/**
 * @param {HTMLCanvasElement} canvas
 * @param {object} view
 * @param {{moved: function, done: function}} report what to do as points move, and when they have
 */
export function drawing(canvas, view, { moved, done }) {
  let last = null;

  function put(event) {
    const box = canvas.getBoundingClientRect(),
      { inputs } = view.data;
    const x = canvas.scales.toX(event.clientX - box.left),
      y = canvas.scales.toY(event.clientY - box.top);
    const nearest = inputs.reduce((best, v, i) => (Math.abs(v - x) < Math.abs(inputs[best] - x) ? i : best), 0);
    const targets = [...view.targets],
      value = Number(Math.max(-1.5, Math.min(1.5, y)).toFixed(2));
    const [from, to] = last === null ? [nearest, nearest] : [Math.min(last, nearest), Math.max(last, nearest)];
    for (let i = from; i <= to; i++) targets[i] = value;
    last = nearest;
    moved(targets, nearest);
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (!view.drawing) return;
    canvas.setPointerCapture(event.pointerId);
    last = null;
    put(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (view.drawing && canvas.hasPointerCapture(event.pointerId)) put(event);
  });
  canvas.addEventListener("pointerup", (event) => {
    if (view.drawing && canvas.hasPointerCapture(event.pointerId)) done();
  });
  canvas.addEventListener("keydown", (event) => {
    if (!view.drawing) return;
    const at = view.chosen ?? 0,
      along = { ArrowLeft: -1, ArrowRight: 1 }[event.key],
      up = { ArrowUp: STEP, ArrowDown: -STEP }[event.key];
    if (along) moved(view.targets, Math.max(0, Math.min(view.data.inputs.length - 1, at + along)));
    else if (up) {
      const targets = [...view.targets];
      targets[at] = Number((targets[at] + up).toFixed(2));
      moved(targets, at);
    } else if (event.key === "Enter") done();
    else return;
    event.preventDefault();
  });

  /** What a screen reader says of the canvas while one draws, and otherwise. */
  return () => {
    const value = view.targets[view.chosen ?? 0] ?? 0;
    const said = view.drawing
      ? {
          role: "slider",
          tabindex: 0,
          "aria-label": "Target curve: left and right choose a point, up and down move it, Enter trains on it",
          "aria-valuemin": -1.5,
          "aria-valuemax": 1.5,
          "aria-valuenow": value,
          "aria-valuetext": `point ${(view.chosen ?? 0) + 1} of ${view.targets.length}: ${value}`,
        }
      : {
          role: "img",
          "aria-label": view.curve
            ? "The points, and the network’s output for the optimizer and the central flow"
            : "The plane of the two weights: ways of the optimizer and of the central flow",
        };
    for (const name of ["tabindex", "aria-valuenow", "aria-valuemin", "aria-valuemax", "aria-valuetext"]) {
      if (!(name in said)) canvas.removeAttribute(name);
    }
    for (const [name, value] of Object.entries(said)) canvas.setAttribute(name, value);
    canvas.classList.toggle("drawing", view.drawing);
  };
}
