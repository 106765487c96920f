// The state of a job: a sign, a word and a colour, so that none of them has to be seen alone.
import { html } from "../dom.js";

export const STATES = ["RUNNING", "STARTING", "PENDING", "RECOVERING", "PAUSED", "SUCCEEDED", "FAILED", "CANCELLED"];
const ENDED = new Set(["SUCCEEDED", "FAILED", "CANCELLED"]);
const SIGNS = {
  RUNNING: "▶",
  STARTING: "◔",
  PENDING: "○",
  RECOVERING: "↻",
  PAUSED: "‖",
  SUCCEEDED: "✓",
  FAILED: "✕",
  CANCELLED: "⊘",
};

export const isEnded = (state) => ENDED.has(state);
export const word = (state) => state.toLowerCase();

/** How many jobs of all queues are in each state. */
export function sumOfStates(queues) {
  const sums = {};
  for (const { states } of queues) {
    for (const [state, number] of Object.entries(states)) sums[state] = (sums[state] ?? 0) + number;
  }
  return sums;
}

export const State = ({ state }) =>
  html`<span class="state" data-state=${state}><span aria-hidden="true">${SIGNS[state] ?? "?"}</span> ${word(state)}</span>`;

/** How many jobs are in each state: a bar in proportion, and the numbers. */
export function StateBar({ states }) {
  const found = STATES.filter((state) => states[state]);
  const total = found.reduce((sum, state) => sum + states[state], 0);
  const said = found.map((state) => `${states[state]} ${word(state)}`).join(", ");
  return html`<span class="state-bar" role="img" aria-label=${said || "no jobs"} title=${said}>
    ${found.map(
      (state) => html`<i key=${state} data-state=${state} style=${{ width: `${(100 * states[state]) / total}%` }} />`,
    )}
  </span>`;
}
