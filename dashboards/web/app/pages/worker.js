// One worker: its device, who is on it now, and who was.
import { get } from "../api.js";
import { html, useState } from "../dom.js";
import { duration, moment, time } from "../format.js";
import { useLive } from "../live.js";
import { Device, useRunning } from "../parts/device.js";
import { Empty, Known } from "../parts/notices.js";
import { Page, Panel, Tabs } from "../parts/page.js";
import { State } from "../parts/state.js";
import { Timeline } from "../parts/timeline.js";
import { Link, to } from "../router.js";
import { threadStyle } from "../threads.js";

const WINDOWS = [["1 h", 3600], ["24 h", 86_400], ["7 d", 604_800]];
const SHOWN = 100;

export function WorkerPage({ id }) {
  const [seconds, setSeconds] = useState(3600);
  const cluster = useLive((signal) => get("/cluster", { signal }), { every: 2000, concerns: () => false });
  const jobs = useRunning();
  const timeline = useLive((signal) => get(`/timeline?seconds=${seconds}`, { signal }), { key: String(seconds), every: 10_000, gap: 5000 });
  const choose = html`<${Tabs} label="How far back" choices=${WINDOWS} value=${seconds} onChoose=${setSeconds} />`;
  return html`<${Page} title=${`Worker ${id}`}>
    <${Known} live=${cluster} what="the worker">${(view) => {
      const worker = view.workers.find((one) => one.id === id);
      return worker
        ? html`<div class="devices"><${Device} worker=${worker} jobs=${jobs} /></div>`
        : html`<${Empty} title="This worker is not there">It gave its device back, was lost, or never was. What it did stands below.<//>`;
    }}<//>
    <${Panel} title="Who was on it" aside=${choose}>
      <${Known} live=${timeline} what="the timeline">${(found) => html`
        <${Timeline} timeline=${found} only=${id} />
        <${Spans} spans=${found.spans.filter((span) => span.worker_id === id).slice(0, SHOWN)} />
      `}<//>
    <//>
  <//>`;
}

function Spans({ spans }) {
  if (!spans.length) return null;
  return html`<div class="table-scroll" tabindex="0" role="region" aria-label="Attempts on this worker"><table>
    <caption class="unseen">Attempts on this worker</caption>
    <thead><tr>
      <th scope="col">Job</th><th scope="col" class="right">Attempt</th><th scope="col">From</th><th scope="col">To</th>
      <th scope="col" class="right">Length</th><th scope="col" class="wide-only">Ended by</th><th scope="col">Now</th>
    </tr></thead>
    <tbody>${spans.map(
      (span) => html`<tr key=${`${span.job_id}-${span.attempt}`} style=${threadStyle(span.job_id)}>
        <td class="name"><i class="thread" /><${Link} href=${to.job(span.job_id)}>${span.name}<//></td>
        <td class="right">${span.attempt}</td>
        <td title=${moment(span.started_unix_seconds)}>${time(span.started_unix_seconds)}</td>
        <td title=${moment(span.ended_unix_seconds)}>${time(span.ended_unix_seconds)}</td>
        <td class="right">${duration((span.ended_unix_seconds ?? Date.now() / 1000) - span.started_unix_seconds)}</td>
        <td class="wide-only">${span.why ?? ""}</td>
        <td><${State} state=${span.state} /></td>
      </tr>`,
    )}</tbody>
  </table></div>`;
}
