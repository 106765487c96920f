// One job: how it learns, how far it is, why it waits, what happened to it, and what came of it.
import { get, jobPath } from "../api.js";
import { columns, fetchCurves, restarts } from "../curves.js";
import { html, useMemo, useState } from "../dom.js";
import { bytes, count, duration, figure, loss, percent, shortModel } from "../format.js";
import { useLive } from "../live.js";
import { Actions } from "../parts/actions.js";
import { Artifact } from "../parts/artifact.js";
import { Chart } from "../parts/chart.js";
import { History } from "../parts/history.js";
import { Log } from "../parts/log.js";
import { Meter } from "../parts/meter.js";
import { Empty, Known } from "../parts/notices.js";
import { Facts, Page, Panel, When } from "../parts/page.js";
import { Spec } from "../parts/spec.js";
import { isEnded, State } from "../parts/state.js";
import { usePace } from "../pace.js";
import { Link, to } from "../router.js";
import { threadStyle } from "../threads.js";

const MOST_LABELS = 12;

export function JobPage({ id }) {
  const concerns = (event) => event.job_id === (job.data?.id ?? id);
  const isDone = (found) => isEnded(found?.state);
  const job = useLive((signal) => get(jobPath(id), { signal }), { key: id, every: 3000, concerns, isDone });
  const isSettled = isDone(job.data);
  if (job.problem?.status === 404 && !job.data) {
    return html`<${Page} title="No such job"><${Empty} title="There is no job of that id or name">
      It may have been pruned. <${Link} href=${to.jobs()}>All jobs<//>
    <//><//>`;
  }
  const title = job.data?.name ?? id;
  const heading = html`<span style=${threadStyle(job.data?.id ?? id)}><i class="thread" />${title}</span>`;
  return html`<${Page} title=${title} heading=${heading} aside=${job.data && html`<${Actions} job=${job.data} onDone=${job.reload} />`}>
    <${Known} live=${job} what="the job">${(found) => html`<${Body} job=${found} isSettled=${isSettled} concerns=${concerns} />`}<//>
  <//>`;
}

function Body({ job, isSettled, concerns }) {
  const every = isSettled ? 0 : 3000;
  const curves = useLive((signal, known) => fetchCurves(job.id, signal, known), { key: job.id, every, concerns });
  const events = useLive((signal) => allEvents(job.id, signal), { key: job.id, concerns });
  const saved = useLive((signal) => get(jobPath(job.id, "/checkpoints"), { signal }), { key: job.id, every: 5 * every, concerns });
  const points = curves.data?.points ?? [];
  return html`
    <${Standing} job=${job} points=${points} />
    <div class="columns wide-left">
      <div>
        <${Panel} title="Curves"><${Known} live=${curves} what="curves">${() => html`<${Curves} points=${points} isSettled=${isSettled} />`}<//><//>
        <${Log} jobId=${job.id} isSettled=${isSettled} />
        <${Panel} title="What happened">
          <${Known} live=${events} what="events">${(found) => html`<${History} events=${found} attempts=${job.attempts} />`}<//>
        <//>
      </div>
      <div>
        <${Panel} title="Facts"><${JobFacts} job=${job} /><//>
        <${Artifact} job=${job} />
        ${job.ledger && html`<${Panel} title="Ledger"><${Ledger} ledger=${job.ledger} /><//>`}
        <${Panel} title="Checkpoints"><${Known} live=${saved} what="checkpoints">${(found) => html`<${Checkpoints} found=${found.checkpoints} />`}<//><//>
        <${Spec} spec=${job.spec} />
      </div>
    </div>
  `;
}

async function allEvents(id, signal) {
  const found = [];
  for (let after = 0; ; ) {
    const page = await get(jobPath(id, `/events?after=${after}&limit=1000`), { signal });
    found.push(...page.events);
    if (page.events.length < 1000) return found;
    after = page.after;
  }
}

function Standing({ job, points }) {
  const { step, total_steps: total, epoch } = job.progress;
  const left = usePace(job, points);
  const waits = !isEnded(job.state) && job.state !== "RUNNING";
  const asked = job.desired !== "run" && !isEnded(job.state) ? html`<span class="soft">asked to ${job.desired}</span>` : "";
  return html`<section class="standing" aria-label="Where it stands" style=${threadStyle(job.id)}>
    <div class="row"><${State} state=${job.state} /> ${asked} <span class=${job.state === "FAILED" ? "wrong" : waits ? "why-waits" : "soft"}>${job.message}</span></div>
    <div class="row progress-line">
      <${Meter} value=${total ? step / total : null} label="progress" thread />
      <span><b>${count(step)}</b>${total ? ` of ${count(total)} steps` : " steps"}</span>
    </div>
    <${Facts} className="inline" facts=${[
      ["Loss", loss(job.progress.train_loss)],
      ["Held-out loss", loss(job.progress.eval_loss)],
      ["Exact match", percent(job.progress.eval_exact_match)],
      ["Epoch", figure(epoch, 3)],
      ["Tokens", count(job.progress.tokens)],
      ["Worker time", duration(job.progress.busy_seconds)],
      isEnded(job.state)
        ? ["Took", duration(job.ended_unix_seconds - job.submitted_unix_seconds), "From submission to end"]
        : ["Left", left === null ? "–" : `about ${duration(left > 600 ? 60 * Math.round(left / 60) : Math.ceil(left))}`, "At the pace of the last while, shared as now"],
    ]} />
  </section>`;
}

const SERIES = ["loss", "eval_loss", "learning_rate", "grad_norm"];

function Curves({ points, isSettled }) {
  const [isLog, setLog] = useState(false);
  const { found, marks } = useMemo(() => ({ found: columns(points, SERIES), marks: restarts(points) }), [points]);
  if (!points.length) {
    return html`<${Empty} title="No step was logged${isSettled ? "" : " yet"}">Steps appear as they are logged, every <code>training.logging_steps</code>.<//>`;
  }
  const chart = { x: found.steps, marks, group: "job" };
  const hasEval = found.eval_loss.some((value) => value !== null);
  return html`
    <label class="row end check"><input type="checkbox" checked=${isLog} onChange=${() => setLog(!isLog)} /> <span>Logarithmic</span></label>
    <${Chart} ...${chart} title="Loss" isLog=${isLog} height=${220} series=${[
      { label: "train", colour: "--curve-1", values: found.loss },
      ...(hasEval ? [{ label: "held out", colour: "--curve-2", values: found.eval_loss, isPoints: true }] : []),
    ]} />
    <div class="columns even">
      <${Chart} ...${chart} title="Learning rate" height=${130} series=${[{ label: "learning rate", colour: "--curve-3", values: found.learning_rate }]} />
      <${Chart} ...${chart} title="Gradient norm" height=${130} series=${[{ label: "gradient norm", colour: "--curve-4", values: found.grad_norm }]} />
    </div>
  `;
}

function JobFacts({ job }) {
  const labels = Object.entries(job.labels);
  return html`<${Facts} facts=${[
    ["Id", html`<code>${job.id}</code>`],
    ["Base", html`<span title=${job.model}>${shortModel(job.model)}</span>`],
    ["Queue", html`<${Link} href=${to.jobs(`queue=${encodeURIComponent(job.queue)}`)}>${job.queue}<//>, priority ${job.priority}`],
    job.worker_id && [isEnded(job.state) ? "Last worker" : "Worker", html`<${Link} href=${to.worker(job.worker_id)}>${job.worker_id}<//>`],
    job.owner && ["Owner", job.owner],
    job.sweep_id && ["Sweep", html`<${Link} href=${to.sweep(job.sweep_id)}>${job.labels.sweep ?? job.sweep_id}<//>`],
    ["Submitted", html`<${When} at=${job.submitted_unix_seconds} />`],
    job.ended_unix_seconds !== null && ["Ended", html`<${When} at=${job.ended_unix_seconds} />`],
    ["Attempts", String(job.attempt)],
    labels.length > 0 && [
      "Labels",
      html`<span class="labels">${labels.slice(0, MOST_LABELS).map(([name, value]) => html`<${Link} key=${name} class="label" href=${to.jobs(`label=${encodeURIComponent(`${name}=${value}`)}`)}>${name}=${value}<//>`)}</span>`,
    ],
    job.estimate && ["Trained parameters", count(job.estimate.trainable_parameters)],
    job.estimate && ["Rows", `${count(job.estimate.train_rows)} train, ${count(job.estimate.eval_rows)} held out`],
    job.estimate && ["Peak alone", bytes(job.estimate.peak_bytes), "Predicted memory of a worker that runs this job alone, base included"],
  ]} />`;
}

function Ledger({ ledger }) {
  return html`<${Facts} facts=${[
    ["Device time", duration(ledger.device_seconds), "Its share, by tokens, of each pack that it ran in"],
    ["Waited", duration(ledger.waiting_seconds)],
    ["Writing checkpoints", duration(ledger.checkpoint_seconds)],
    ["Tokens", count(ledger.tokens)],
    ["With a label", count(ledger.label_tokens)],
    ["Padding", count(ledger.padding_tokens)],
    ["Recoveries", count(ledger.recoveries)],
    ["Slower than alone", ledger.slowdown === null || ledger.slowdown === undefined ? "–" : `${figure(ledger.slowdown, 3)} ×`, "Time of its rounds against what its rows would have taken alone, estimated"],
  ]} />`;
}

function Checkpoints({ found }) {
  if (!found.length) return html`<p class="aside">None was written yet.</p>`;
  return html`<div class="table-scroll" tabindex="0" role="region" aria-label="Checkpoints"><table>
    <caption class="unseen">Checkpoints</caption>
    <thead><tr><th scope="col" class="right">Step</th><th scope="col" class="right">Attempt</th><th scope="col" class="right">Size</th><th scope="col">State</th></tr></thead>
    <tbody>${found.map(
      (one) => html`<tr key=${one.folder} title=${one.folder}>
        <td class="right">${one.step}</td><td class="right">${one.attempt}</td><td class="right">${bytes(one.size_bytes)}</td>
        <td>${one.problem ? html`<span class="wrong">bad: ${one.problem}</span>` : "good"}</td>
      </tr>`,
    )}</tbody>
  </table></div>`;
}
