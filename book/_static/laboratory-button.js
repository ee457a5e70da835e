// The buttons of the laboratory: the first click loads it. Everything else is in laboratory.js.
(() => {
  let loading;
  const load = (src) => (loading ??= new Promise((resolve, reject) => {
    if (window.cflowsBegin) return resolve();
    document.head.append(Object.assign(document.createElement("script"), { src, onload: resolve, onerror: reject }));
  }));

  async function begin(root, settings, options) {
    const button = root.querySelector("button.load");
    if (button) button.disabled = true;
    try {
      await load(root.dataset.script);
    } catch {
      loading = undefined;
      button.disabled = false;
      button.textContent = "It could not be loaded: try again";
      return null;
    }
    return window.cflowsBegin(root, settings, options);
  }

  const places = [...document.querySelectorAll("[data-laboratory]")];
  for (const root of places) {
    root.querySelector("button.load").addEventListener("click", () => begin(root));
    if (root.dataset.controls === "all" && location.hash.startsWith("#lab?")) begin(root, location.hash.slice(5), { play: false });
  }
  for (const button of document.querySelectorAll("button.cflows-set")) {
    button.addEventListener("click", () => begin(places[0], button.dataset.set));
  }
})();
