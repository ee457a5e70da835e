// The page's end of the thread in which the engine runs.

/**
 * @param {string} engine its script
 * @param {{news: function, failed: function}} report what to do with what comes back
 * @returns {function(string, *): Promise} gives an order, and is done when it was carried out
 */
export function connect(engine, { news, failed }) {
  const worker = new Worker(URL.createObjectURL(new Blob([engine], { type: "text/javascript" })));
  const waiting = new Map();
  let asked = 0,
    run = 0;
  worker.onerror = (event) => failed(event.message ?? "its thread could not be started");
  worker.onmessage = ({ data }) => {
    if (data.failed) failed(data.failed);
    else if (data.run === run) news(data); // what comes late from the last run is of no interest
    waiting.get(data.id)?.();
    waiting.delete(data.id);
  };
  return (order, value) =>
    new Promise((resolve) => {
      asked += 1;
      if (order === "load") run += 1;
      waiting.set(asked, resolve);
      worker.postMessage({ order, value, id: asked, run });
    });
}
