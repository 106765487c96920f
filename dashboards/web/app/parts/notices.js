// What is shown where there is nothing to show, not yet, or not any more.
import { html } from "../dom.js";

const Loading = ({ what }) => html`<p class="notice" role="status"><span class="spinner" /> Loading ${what}…</p>`;

export const Empty = ({ title, children }) => html`<div class="notice empty"><b>${title}</b><p>${children}</p></div>`;

export const Problem = ({ problem, retry }) => html`
  <div class="notice problem" role="alert">
    <b>${problem.status ? `${problem.title} (${problem.status})` : "No answer"}</b>
    <p>${problem.message}</p>
    ${retry && html`<button onClick=${retry}>Try again</button>`}
  </div>
`;

/** Data that is there, that is on its way, or why it is not there. What was known before an error stays. */
export function Known({ live, what, children }) {
  if (live.data !== undefined) return children(live.data);
  if (live.problem) return html`<${Problem} problem=${live.problem} retry=${live.reload} />`;
  return html`<${Loading} what=${what} />`;
}
