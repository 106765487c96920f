// Packs over time: a row for each worker, a lane for each job that shared it; what overlaps trained together.
import { html } from "../dom.js";
import { duration, minute, time } from "../format.js";
import { Link, to } from "../router.js";
import { threadStyle } from "../threads.js";
import { Empty } from "./notices.js";

const MOST_LANES = 24;
const LEAD = 0.02;

/** Spans that do not overlap share a lane. */
function lanes(spans, until) {
  const ends = [];
  const found = [];
  for (const span of [...spans].sort((a, b) => a.started_unix_seconds - b.started_unix_seconds)) {
    let lane = ends.findIndex((end) => end <= span.started_unix_seconds);
    if (lane < 0) lane = ends.length;
    ends[lane] = span.ended_unix_seconds ?? until + 1;
    (found[lane] ??= []).push(span);
  }
  return found;
}

export function Timeline({ timeline, only }) {
  const { since_unix_seconds: earliest, until_unix_seconds: until } = timeline;
  const byWorker = new Map();
  for (const span of timeline.spans) {
    if (only && span.worker_id !== only) continue;
    const worker = span.worker_id ?? "none";
    byWorker.set(worker, [...(byWorker.get(worker) ?? []), span]);
  }
  if (!byWorker.size) return html`<${Empty} title="Nothing trained in this while">Choose a longer one above.<//>`;
  // No wider than what there is to show.
  const first = Math.min(...[...byWorker.values()].flat().map((span) => span.started_unix_seconds));
  const since = Math.max(earliest, first - LEAD * (until - first));
  const workers = [...byWorker].sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true }));
  return html`<div class="timeline">
    ${workers.map(([worker, spans]) => html`<${Row} key=${worker} worker=${worker} spans=${spans} since=${since} until=${until} />`)}
    <${Ticks} since=${since} until=${until} />
    ${!timeline.is_whole && html`<p class="aside">Only the newest ${timeline.spans.length} are shown.</p>`}
  </div>`;
}

function Row({ worker, spans, since, until }) {
  const found = lanes(spans, until);
  return html`<section class="timeline-row" aria-label=${`Worker ${worker}`}>
    <h3><${Link} href=${to.worker(worker)}>${worker}<//></h3>
    <div>
      ${found.slice(0, MOST_LANES).map(
        (lane, at) => html`<div class="lane" key=${at}>
          ${lane.map((span) => html`<${Bar} key=${`${span.job_id}-${span.attempt}`} span=${span} since=${since} until=${until} />`)}
        </div>`,
      )}
      ${found.length > MOST_LANES && html`<p class="aside">and ${found.length - MOST_LANES} more lanes</p>`}
    </div>
  </section>`;
}

function Bar({ span, since, until }) {
  const share = (at) => (100 * (at - since)) / (until - since);
  const begin = Math.max(0, share(span.started_unix_seconds));
  const ended = span.ended_unix_seconds;
  const end = Math.min(100, share(ended ?? until));
  const how = ended === null ? "still there" : `until ${time(ended)}, ${span.why ?? "ended"}`;
  const said = `${span.name}, attempt ${span.attempt}: ${time(span.started_unix_seconds)}, ${how}, ${duration((ended ?? until) - span.started_unix_seconds)}`;
  return html`<${Link}
    href=${to.job(span.job_id)}
    class="bar"
    data-end=${ended === null ? "open" : span.why === "finished" ? "done" : "broken"}
    style=${{ ...threadStyle(span.job_id), left: `${begin}%`, width: `${Math.max(0.4, end - begin)}%` }}
    title=${said}
    aria-label=${said}
  >
    <span>${span.name}</span>
  <//>`;
}

function Ticks({ since, until }) {
  const length = until - since;
  const steps = [10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400];
  const step = steps.find((one) => length / one <= 6) ?? 86400;
  const marks = [];
  for (let at = Math.ceil(since / step) * step; at < until; at += step) marks.push(at);
  return html`<div class="ticks" aria-hidden="true">
    ${marks.map(
      (at) => html`<span key=${at} style=${{ left: `${(100 * (at - since)) / length}%` }}>${step < 60 ? time(at) : minute(at, step >= 43200)}</span>`,
    )}
  </div>`;
}
