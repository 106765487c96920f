// All of it at a glance: who shares which device with whom, what waits, what is wrong.
import { get } from "../api.js";
import { html, useRef, useState } from "../dom.js";
import { ago, count, percent, plural } from "../format.js";
import { useLive } from "../live.js";
import { Device, useRunning } from "../parts/device.js";
import { Sparkline } from "../parts/meter.js";
import { Empty, Known } from "../parts/notices.js";
import { Page, Panel, Tabs } from "../parts/page.js";
import { State, StateBar, STATES, sumOfStates, word } from "../parts/state.js";
import { Timeline } from "../parts/timeline.js";
import { Link, to } from "../router.js";
import { threadStyle } from "../threads.js";

const KEPT = 150;
const GAP = 10_000; // a busy cluster has many events a second, and many who look at it
const WINDOWS = [["15 min", 900], ["1 h", 3600], ["6 h", 21600], ["24 h", 86400], ["7 d", 604800]];

export function OverviewPage() {
  const [seconds, setSeconds] = useState(3600);
  const past = useRef([]);
  const cluster = useLive(async (signal) => {
    const view = await get("/cluster", { signal });
    past.current = [...past.current, view].slice(-KEPT);
    return view;
  }, { every: 4000, concerns: () => false });
  const jobs = useRunning();
  const queues = useLive((signal) => get("/queues", { signal }), { every: 30_000, gap: GAP });
  const timeline = useLive((signal) => get(`/timeline?seconds=${seconds}`, { signal }), { key: String(seconds), every: 15_000, gap: GAP });
  const choose = html`<${Tabs} label="How far back" choices=${WINDOWS} value=${seconds} onChoose=${setSeconds} />`;
  return html`<${Page} title="Overview">
    <${Summary} cluster=${cluster.data} past=${past.current} queues=${queues.data} />
    <div class="columns wide-left">
      <div>
        <${Panel} title="Devices and who shares them" className="bare">
          <${Known} live=${cluster} what="the cluster">${(view) => html`<${Devices} view=${view} jobs=${jobs} />`}<//>
        <//>
        <${Panel} title="Packs over time" aside=${choose}>
          <${Known} live=${timeline} what="the timeline">${(found) => html`<${Timeline} timeline=${found} />`}<//>
        <//>
      </div>
      <div>
        <${Panel} title="Queues"><${Known} live=${queues} what="queues">${(found) => html`<${Queues} queues=${found.queues} />`}<//><//>
        <${Few} title="Waiting" query="state=PENDING&state=RECOVERING&sort=-priority" none="Nothing waits." />
        <${Few} title="Failed last" query="state=FAILED&sort=-ended" none="Nothing has failed." />
      </div>
    </div>
  <//>`;
}

function Summary({ cluster, past, queues }) {
  const states = sumOfStates(queues?.queues ?? []);
  const rate = cluster?.tokens_per_second ?? null;
  return html`<section class="summary" aria-label="The cluster in figures">
    <div>
      <b>${cluster ? `${cluster.devices_in_use} / ${cluster.devices}` : "–"}</b><span>devices in use</span>
      <small title=${cluster?.executor}>${cluster ? `${plural(cluster.nodes, "node")}, ${cluster.executor}` : ""}</small>
    </div>
    <div>
      <b>${percent(cluster?.utilization ?? null)}</b><span>busy</span>
      <${Sparkline} values=${past.map((view) => view.utilization)} top=${1} label="busy share since this page was opened" />
    </div>
    <div>
      <b>${rate === null ? "–" : count(rate)}</b><span>tokens / s</span>
      <${Sparkline} values=${past.map((view) => view.tokens_per_second)} label="tokens a second since this page was opened" />
    </div>
    <ul aria-label="Jobs by state">
      ${STATES.map(
        (state) => html`<li key=${state} data-none=${!states[state]}>
          <${Link} href=${to.jobs(`state=${state}`)}><b>${queues ? count(states[state] ?? 0) : "–"}</b> <${State} state=${state} /><//>
        </li>`,
      )}
    </ul>
  </section>`;
}

function Devices({ view, jobs }) {
  if (!view.workers.length) {
    return html`<${Empty} title="No worker at the moment">
      ${view.published_unix_seconds ? "Workers are started when a job needs one, and give their device back when none does." : "The scheduler is starting."}
      ${" "}Submit one with <code>loraloom submit jobs.yaml</code>.
    <//>`;
  }
  return html`<div class="devices">${view.workers.map((worker) => html`<${Device} key=${worker.id} worker=${worker} jobs=${jobs} />`)}</div>`;
}

function Queues({ queues }) {
  if (!queues.length) return html`<p class="aside">No job was submitted yet.</p>`;
  return html`<div class="table-scroll" tabindex="0" role="region" aria-label="Queues"><table>
    <caption class="unseen">Queues</caption>
    <thead><tr>
      <th scope="col">Queue</th><th scope="col" class="right">Waiting</th><th scope="col" class="right">Running</th>
      <th scope="col" class="right">Share</th><th scope="col" class="right">Weight</th><th scope="col">All</th>
    </tr></thead>
    <tbody>${queues.map((queue) => {
      const waits = (queue.states.PENDING ?? 0) + (queue.states.RECOVERING ?? 0);
      return html`<tr key=${queue.name}>
        <td class="name"><${Link} href=${to.jobs(`queue=${encodeURIComponent(queue.name)}`)}>${queue.name}<//></td>
        <td class="right">${count(waits)}</td>
        <td class="right">${count(queue.states.RUNNING ?? 0)}${queue.quota === null ? "" : html`<small> / ${queue.quota}</small>`}</td>
        <td class="right">${percent(queue.share)}</td>
        <td class="right">${queue.weight ?? "–"}</td>
        <td><${StateBar} states=${queue.states} /></td>
      </tr>`;
    })}</tbody>
  </table></div>`;
}

function Few({ title, query, none }) {
  const live = useLive((signal) => get(`/jobs?${query}&limit=6`, { signal }), { key: query, every: 60_000, gap: GAP });
  const all = html`<${Link} href=${to.jobs(query)} aria-label=${`All jobs: ${word(title)}`}>All<//>`;
  return html`<${Panel} title=${title} aside=${all}>
    <${Known} live=${live} what="jobs">${({ jobs }) =>
      jobs.length
        ? html`<ul class="few">${jobs.map(
            (job) => html`<li key=${job.id} style=${threadStyle(job.id)}>
              <div class="row"><i class="thread" /><${Link} href=${to.job(job.id)} class="name">${job.name}<//><span class="soft end">${ago(job.ended_unix_seconds ?? job.submitted_unix_seconds)}</span></div>
              <p>${job.message}</p>
            </li>`,
          )}</ul>`
        : html`<p class="aside">${none}</p>`}<//>
  <//>`;
}
