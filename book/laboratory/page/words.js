// The run in words, for those who do not see the panels and for those who do.

import { short } from "./chart.js";

const LOST = [1.25, 1.5, 2, 3, 5]; // how many times the loss is as high without the penalty: worth a word each
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
      `Its largest eigenvalue is ${row.central.eigenvalues[0].toPrecision(4)}, and the edge of stability is at ${short(row.threshold)}; ${count === 0 ? "nothing oscillates" : count === 1 ? "one direction oscillates" : `${count} directions oscillate`}.`,
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

/** Where the edge of stability is in a run. */
export function edge(view, { lr, threshold }) {
  const { optimizer, beta1 } = view.settings,
    momentum = optimizer === "adam";
  return `${name(view).replace(/^g/, "G")} with η = ${short(lr)}${momentum ? ` and β₁ = ${beta1}` : ""}: its edge of stability is where an eigenvalue of P⁻¹H is ${short(threshold)}${momentum ? ", that is 2 (1 + β₁) / (1 − β₁)" : ""}.`;
}

/** What has happened in some rows, given what was `known` before: a list of sentences. */
export function happened(rows, known) {
  const said = [];
  for (const row of rows) {
    const count = row.central?.variances?.filter((x) => x > 0).length ?? 0;
    if (count > (known.count ?? 0)) {
      const what =
        count === 1
          ? `the largest eigenvalue has reached ${short(row.threshold)}, and the optimizer begins to oscillate`
          : `${count} eigenvalues are at ${short(row.threshold)}`;
      said.push(`Step ${row.step}: ${what}.`);
    }
    known.count = Math.max(count, known.count ?? 0);
    const { central, ablated } = row,
      trusted = central && ablated && !(central.doubt || central.end || ablated.doubt || ablated.end);
    const lost = trusted ? LOST.filter((x) => ablated.predicted_loss > x * central.predicted_loss).at(-1) : 0;
    if (lost > (known.lost ?? 1)) {
      const steps = short(Number((central.p_sum / ablated.p_sum).toPrecision(2)));
      const much = lost < 2 ? `${Math.round(100 * lost - 100)} % higher` : `${lost} times as high`;
      const why = known.lost ? "" : ": the penalty speeds training up";
      said.push(`Step ${row.step}: without the penalty the loss is ${much}, steps are ${steps} times as long${why}.`);
      known.lost = lost;
    }
    for (const [process, label] of Object.entries(NOT_TRUSTED)) {
      const why = row[process]?.end || row[process]?.doubt || "";
      if (why && !known[process]) said.push(`Step ${row.step}: ${label}${why}.`);
      known[process] = why;
    }
  }
  return said;
}
