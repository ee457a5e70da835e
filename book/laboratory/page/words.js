// The run in words, for those who do not see the panels and for those who do.

import { short } from "./chart.js";

const NOT_TRUSTED = {
  optimizer: "",
  stable: "the stable flow ends: ",
  central: "the central flow is not to be trusted: ",
  ablated: "the flow without penalty is not to be trusted: ",
};

const name = (view) => view.names[view.settings.optimizer];

/** The state in words. */
export function words(view) {
  const { rows } = view,
    row = rows.at(-1);
  if (!row) return "";
  const mean = (of) => {
    const values = rows
      .slice(-50)
      .map(of)
      .filter((v) => Number.isFinite(v));
    return values.reduce((sum, v) => sum + v, 0) / values.length;
  };
  const parts = [`Step ${row.step}, η = ${short(row.lr)}.`];
  if (row.optimizer?.loss !== undefined)
    parts.push(
      `Mean loss of ${name(view)} over the last ${Math.min(50, rows.length)} steps: ${short(mean((r) => r.optimizer?.loss))}.`,
    );
  if (row.central?.predicted_loss !== undefined) {
    const count = row.central.variances.filter((x) => x > 0).length;
    parts.push(
      `The central flow predicts ${short(mean((r) => r.central?.predicted_loss))}; at its weights the loss is ${short(row.central.loss)}.`,
    );
    parts.push(
      `Its largest eigenvalue is ${row.central.eigenvalues[0].toFixed(3)}; ${count === 0 ? "nothing oscillates" : count === 1 ? "one direction oscillates" : `${count} directions oscillate`}.`,
    );
  }
  if (row.ablated?.predicted_loss !== undefined)
    parts.push(`Without the penalty it would predict ${short(mean((r) => r.ablated?.predicted_loss))}.`);
  const over = rows.findLast((r) => r.stable && !r.stable.end)?.step;
  if (row.stable?.end) parts.push(`The stable flow was followed until step ${over}: ${row.stable.end}.`);
  return parts.join(" ");
}

/** What is wrong with the run at present: processes that have ended or are not to be trusted, and why. */
export function warnings(row) {
  const labels = { optimizer: "", central: "Central flow, greyed: ", ablated: "Flow without penalty, greyed: " };
  return Object.entries(labels).flatMap(([process, label]) => {
    const why = row?.[process]?.end || row?.[process]?.doubt;
    return why ? [`${label}${label ? why : why[0].toUpperCase() + why.slice(1)}.`] : [];
  });
}

/** What has happened in some rows, given what was `known` before: a list of sentences. */
export function happened(rows, known) {
  const said = [];
  for (const row of rows) {
    const count = row.central?.variances?.filter((x) => x > 0).length ?? 0;
    if (count > (known.count ?? 0)) {
      const what =
        count === 1
          ? "the largest eigenvalue has reached 2, and the optimizer begins to oscillate"
          : `${count} eigenvalues are at 2`;
      said.push(`Step ${row.step}: ${what}.`);
    }
    known.count = Math.max(count, known.count ?? 0);
    for (const [process, label] of Object.entries(NOT_TRUSTED)) {
      const why = row[process]?.end || row[process]?.doubt || "";
      if (why && !known[process]) said.push(`Step ${row.step}: ${label}${why}.`);
      known[process] = why;
    }
  }
  return said;
}
