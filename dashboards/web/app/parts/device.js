// A device: one frozen base, and the threads of all jobs that are woven through it.
import { get } from "../api.js";
import { html } from "../dom.js";
import { bytes, duration, loss, percent, shortModel } from "../format.js";
import { useLive } from "../live.js";
import { Link, to } from "../router.js";
import { threadStyle } from "../threads.js";
import { Meter, Progress } from "./meter.js";
import { Facts } from "./page.js";

const PARTS = ["base", "adapters", "activations", "free"].map((name) => [name, `${name}_bytes`]);

/** Jobs that workers have, by id. */
export function useRunning() {
  const live = useLive((signal) => get("/jobs?state=RUNNING&state=STARTING&limit=200", { signal }), { every: 10_000, gap: 5000 });
  return new Map((live.data?.jobs ?? []).map((job) => [job.id, job]));
}

/** A worker with its memory and those who share it. `jobs` are known by id, where they are. */
export function Device({ worker, jobs }) {
  return html`<article class="device" aria-label=${`Worker ${worker.id}`}>
    <header>
      <h3><${Link} href=${to.worker(worker.id)}>${worker.id}<//></h3>
      <span class="pill" data-worker=${worker.state}>${worker.state}</span>
      <span class="grow" title=${worker.base}>${shortBase(worker.base)}</span>
      <span class="soft">${[worker.node, worker.device].filter(Boolean).join(" · ")}</span>
    </header>
    <${Facts} className="inline" facts=${[
      ["Busy", html`<${Meter} value=${worker.utilization} label="busy" /> ${percent(worker.utilization)}`],
      ["Tokens/s", worker.tokens_per_second === null ? "–" : Math.round(worker.tokens_per_second)],
      ["Sharing", `${worker.sharers.length}${worker.waiting ? ` + ${worker.waiting} waiting` : ""}`],
      ["Since", duration(Date.now() / 1000 - worker.since_unix_seconds)],
    ]} />
    <${Memory} worker=${worker} />
    <${Sharers} worker=${worker} jobs=${jobs} />
  </article>`;
}

function shortBase(base) {
  const [, name, rest] = base.match(/^(.*?)( \([^)]*\))?$/);
  return `${shortModel(name)}${rest ?? ""}`;
}

/** Memory to scale, and below it the adapters alone, each as wide as what it takes of them. */
function Memory({ worker }) {
  const { memory, sharers } = worker;
  if (!memory) {
    const why = worker.state === "loading" ? "The base is being loaded." : "The split of the memory is not known yet.";
    return html`<p class="aside memory-unknown">${why}</p>`;
  }
  const share = (part) => (100 * part) / memory.total_bytes;
  const begin = share(memory.base_bytes);
  const end = begin + share(memory.adapters_bytes);
  const total = sharers.reduce((sum, one) => sum + one.adapter_bytes, 0);
  const said = PARTS.map(([name, field]) => `${name} ${bytes(memory[field])}`).join(", ");
  return html`<figure class="memory">
    <div class="split" role="img" aria-label=${`${bytes(memory.total_bytes)} of memory: ${said}`}>
      ${PARTS.map(
        ([name, field]) =>
          memory[field] > 0 &&
          html`<i key=${name} data-part=${name} title=${`${name} ${bytes(memory[field])}`} style=${{ width: `${share(memory[field])}%` }} />`,
      )}
    </div>
    ${total > 0 &&
    html`
      <svg class="fan" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
        <polygon points=${`${begin},0 ${Math.max(end, begin + 0.3)},0 100,10 0,10`} />
      </svg>
      <div class="weave">
        ${sharers.map(
          (one) => html`<${Link}
            key=${one.job_id}
            href=${to.job(one.job_id)}
            class="strand"
            style=${{ ...threadStyle(one.job_id), width: `${(100 * one.adapter_bytes) / total}%` }}
            title=${`${one.name}: ${bytes(one.adapter_bytes)}`}
            aria-label=${`${one.name}, ${bytes(one.adapter_bytes)}`}
          ><span>${one.name}</span><//>`,
        )}
      </div>
    `}
    <figcaption>
      ${PARTS.map(
        ([name, field]) => html`<span key=${name}><i data-part=${name} /> ${name} <b>${bytes(memory[field])}</b></span>`,
      )}
      <span class="grow right">of ${bytes(memory.total_bytes)}</span>
    </figcaption>
  </figure>`;
}

function Sharers({ worker, jobs }) {
  if (!worker.sharers.length) return html`<p class="aside">No job is on it.</p>`;
  return html`<div class="table-scroll" tabindex="0" role="region" aria-label=${`Jobs on ${worker.id}`}>
    <table>
      <caption class="unseen">Jobs that share ${worker.id}</caption>
      <thead>
        <tr>
          <th scope="col">Job</th><th scope="col">Steps</th><th scope="col" class="right">Loss</th>
          <th scope="col">Of busy time</th><th scope="col" class="right wide-only">Adapter</th>
        </tr>
      </thead>
      <tbody>
        ${worker.sharers.map((one) => {
          const job = jobs.get(one.job_id);
          return html`<tr key=${one.job_id} style=${threadStyle(one.job_id)}>
            <td class="name"><i class="thread" /><${Link} href=${to.job(one.job_id)}>${one.name}<//></td>
            <td>${job ? html`<${Progress} progress=${job.progress} />` : "–"}</td>
            <td class="right">${loss(job?.progress.train_loss)}</td>
            <td><span class="progress"><${Meter} value=${one.share} label="share of busy time" thread /> <span>${percent(one.share)}</span></span></td>
            <td class="right wide-only">${bytes(one.adapter_bytes)}</td>
          </tr>`;
        })}
      </tbody>
    </table>
  </div>`;
}
