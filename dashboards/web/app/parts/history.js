// What happened to a job, attempt by attempt.
import { html } from "../dom.js";
import { duration, moment, time } from "../format.js";
import { Link, to } from "../router.js";
import { State } from "./state.js";

/** Events in order, each attempt with its worker and length where it begins. */
export function History({ events, attempts }) {
  const waiting = [...attempts];
  return html`<ol class="history">
    ${events.map((event) => {
      const begins = event.reason === "placed" ? waiting.shift() : undefined;
      return html`<li key=${event.sequence} data-state=${event.state}>
        ${begins && html`<${Attempt} attempt=${begins} />`}
        <div class="row">
          <time title=${moment(event.time_unix_seconds)}>${time(event.time_unix_seconds)}</time>
          <${State} state=${event.state} /> <code>${event.reason}</code>
        </div>
        <p>${event.message}</p>
      </li>`;
    })}
  </ol>`;
}

function Attempt({ attempt }) {
  const { started_unix_seconds: began, ended_unix_seconds: ended } = attempt;
  const length = attempt.is_open ? `for ${duration(Date.now() / 1000 - began)} so far` : `for ${duration(ended - began)}, ended by ${attempt.why}`;
  return html`<h3>
    Attempt ${attempt.number}${" "}
    <small>on ${attempt.worker_id ? html`<${Link} href=${to.worker(attempt.worker_id)}>${attempt.worker_id}<//>` : "no worker"}
    ${attempt.node ? html` of node ${attempt.node}` : ""} ${length}${attempt.charged ? ", held against it" : ""}</small>
  </h3>`;
}
