// A job's log: its end, and what is added to it.
import { ask, jobPath } from "../api.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "../dom.js";
import { bytes } from "../format.js";
import { useLive } from "../live.js";
import { Problem } from "./notices.js";
import { Panel } from "./page.js";

const FIRST_BYTES = 64 * 1024;
const MOST_CHARACTERS = 512 * 1024;
const SEEN_MILLISECONDS = 2000;

/** What the log has grown by since it was last asked for; its last part the first time. */
async function grow(jobId, signal, known) {
  const range = known ? `bytes=${known.size}-` : `bytes=-${FIRST_BYTES}`;
  let response;
  try {
    response = await ask(jobPath(jobId, "/logs"), { signal, headers: { Range: range } });
  } catch (problem) {
    // Nothing new, or no log yet.
    if (problem.status === 416) return known ?? { text: "", size: 0, isCut: false };
    throw problem;
  }
  const content = new Uint8Array(await response.arrayBuffer());
  if (response.status === 200 && content.length === 0) return known ?? { text: "", size: 0, isCut: false };
  const [, first = 0] = /bytes (\d+)-/.exec(response.headers.get("Content-Range") ?? "") ?? [];
  // Only whole lines: the rest is asked for again once it has its end.
  const end = content.lastIndexOf(10) + 1;
  const begin = !known && Number(first) > 0 ? content.indexOf(10) + 1 : 0;
  const text = ((known?.text ?? "") + new TextDecoder().decode(content.subarray(begin, end))).slice(-MOST_CHARACTERS);
  return { text, size: Number(first) + end, isCut: (known?.isCut ?? Number(first) > 0) || text.length === MOST_CHARACTERS };
}

export function Log({ jobId, isSettled }) {
  const [filter, setFilter] = useState("");
  const [follows, setFollows] = useState(true);
  const box = useRef(null);
  const live = useLive((signal, known) => grow(jobId, signal, known), {
    key: jobId,
    every: isSettled ? 0 : SEEN_MILLISECONDS,
    concerns: (event) => event.job_id === jobId,
  });
  const text = live.data?.text ?? "";
  const wanted = filter.toLowerCase();
  const shown = wanted ? text.split("\n").filter((line) => line.toLowerCase().includes(wanted)).join("\n") : text;
  useLayoutEffect(() => {
    if (follows && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [shown, follows]);
  useEffect(() => setFilter(""), [jobId]);
  // Whoever scrolls up wants to read; whoever scrolls to the end wants to follow.
  const scrolled = ({ target }) => setFollows(target.scrollHeight - target.scrollTop - target.clientHeight < 8);
  const aside = html`<label><span class="unseen">Only lines with</span>
    <input type="search" placeholder="only lines with…" value=${filter} onInput=${(event) => setFilter(event.target.value)} />
  </label>`;
  return html`<${Panel} title="Log" aside=${aside}>
    ${live.problem && !live.data && html`<${Problem} problem=${live.problem} retry=${live.reload} />`}
    ${live.data?.isCut && html`<p class="aside">The beginning is left out; <code>loraloom logs</code> prints all ${bytes(live.data.size)}.</p>`}
    <pre class="log" tabindex="0" ref=${box} onScroll=${scrolled} aria-label="Log lines">${shown || (wanted ? "No line has that." : "Nothing was logged yet.")}</pre>
    ${!follows && html`<div class="row end"><button class="quiet" onClick=${() => setFollows(true)}>To the end</button></div>`}
  <//>`;
}
