// Elements of the page: buttons, sliders, lists, switches. All are the browser's own, so that keyboard, touch and screen
// readers know them.

export function element(parent, tag, properties = {}, attributes = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return parent.appendChild(made);
}

export const button = (parent, textContent, onclick) =>
  element(parent, "button", { type: "button", textContent, onclick });

let count = 0;

function labelled(parent, label, make) {
  const box = element(parent, "div", { className: "control" }),
    id = `cflows-lab-${(count += 1)}`;
  element(box, "label", { htmlFor: id, textContent: label });
  return make(box, id);
}

/** A list; `options` maps values to their names. */
export function choice(parent, label, options, onchange) {
  return labelled(parent, label, (box, id) => {
    const select = element(box, "select", { id });
    for (const [value, textContent] of Object.entries(options)) element(select, "option", { value, textContent });
    select.addEventListener("change", () => onchange(select.value));
    return { set: (value) => (select.value = value), select };
  });
}

const PAUSE = 150; // milliseconds after which a slider that moves has got somewhere

/** A slider over some values, in order. */
export function slider(parent, label, values, show, onchange) {
  return labelled(parent, label, (box, id) => {
    const output = element(box, "output", { htmlFor: id });
    const input = element(box, "input", { type: "range", id, min: 0, max: values.length - 1, step: 1 });
    const tell = (value) => {
      output.textContent = show(value);
      input.setAttribute("aria-valuetext", show(value));
    };
    let timer = 0;
    input.addEventListener("input", () => {
      tell(values[input.valueAsNumber]);
      clearTimeout(timer);
      timer = setTimeout(() => {
        timer = 0;
        onchange(values[input.valueAsNumber]);
      }, PAUSE);
    });
    const set = (value) => {
      if (timer) return; // it moves, and knows better
      input.value = values.reduce(
        (best, x, i) => (Math.abs(x - value) < Math.abs(values[best] - value) ? i : best),
        0,
      );
      tell(value);
    };
    return { set, input, box };
  });
}

export function toggle(parent, label, onchange) {
  const box = element(parent, "div", { className: "control switch" }),
    id = `cflows-lab-${(count += 1)}`;
  const input = element(box, "input", { type: "checkbox", id });
  element(box, "label", { htmlFor: id, textContent: label });
  input.addEventListener("change", () => onchange(input.checked));
  return { set: (on) => (input.checked = on), input };
}

export function save(name, text, type) {
  const link = Object.assign(document.createElement("a"), {
    href: URL.createObjectURL(new Blob([text], { type })),
    download: name,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
