// All jobs: filtered, sorted and cut into pages by the service, however many there are.
import { caller, get, mayAct } from "../api.js";
import { html, useEffect, useMemo, useState } from "../dom.js";
import { count, loss } from "../format.js";
import { useLive } from "../live.js";
import { BulkActions } from "../parts/actions.js";
import { Progress } from "../parts/meter.js";
import { Empty, Known } from "../parts/notices.js";
import { Page, When } from "../parts/page.js";
import { isEnded, State, STATES, sumOfStates } from "../parts/state.js";
import { choosing, Table, useTable } from "../parts/table.js";
import { Link, navigate, to } from "../router.js";
import { useStore } from "../store.js";
import { threadStyle } from "../threads.js";

const PAGE = 50;
const TYPING_MILLISECONDS = 150;
const TEXTS = ["q", "label", "queue", "owner", "sweep"];

const COLUMNS = [
  choosing((job) => job.name),
  { id: "state", header: "State", accessorKey: "state", cell: ({ row }) => html`<${State} state=${row.original.state} />` },
  {
    id: "name",
    header: "Job",
    accessorKey: "name",
    cell: ({ row: { original: job } }) => html`<i class="thread" /><${Link} href=${to.job(job.id)}>${job.name}<//>
      ${job.id !== job.name && html`<small class="soft"> ${job.id}</small>`}`,
    meta: { class: "name" },
  },
  { id: "steps", header: "Steps", enableSorting: false, cell: ({ row }) => html`<${Progress} progress=${row.original.progress} />` },
  { id: "loss", header: "Loss", enableSorting: false, cell: ({ row }) => loss(row.original.progress.train_loss), meta: { align: "right" } },
  { id: "eval", header: "Eval", enableSorting: false, cell: ({ row }) => loss(row.original.progress.eval_loss), meta: { align: "right", isWide: true } },
  { id: "queue", header: "Queue", enableSorting: false, accessorKey: "queue", meta: { isWide: true } },
  { id: "priority", header: "Priority", accessorKey: "priority", meta: { align: "right", isWide: true } },
  {
    id: "worker",
    header: "Worker",
    enableSorting: false,
    cell: ({ row: { original: job } }) => (job.worker_id && !isEnded(job.state) ? html`<${Link} href=${to.worker(job.worker_id)}>${job.worker_id}<//>` : ""),
    meta: { isWide: true },
  },
  {
    id: "submitted",
    header: "Submitted",
    accessorKey: "submitted_unix_seconds",
    cell: ({ getValue }) => html`<${When} at=${getValue()} />`,
    meta: { isWide: true },
  },
  {
    id: "ended",
    header: "Ended",
    accessorKey: "ended_unix_seconds",
    cell: ({ getValue }) => (getValue() === null ? "" : html`<${When} at=${getValue()} />`),
    meta: { isWide: true },
  },
  { id: "why", header: "Why", enableSorting: false, cell: ({ row }) => html`<span title=${row.original.message}>${row.original.message}</span>`, meta: { isWide: true, class: "why" } },
];

/** What the address asks for, as the service is asked. */
function wanted(query) {
  const asked = new URLSearchParams();
  for (const state of query.getAll("state")) if (STATES.includes(state)) asked.append("state", state);
  for (const name of TEXTS) if (query.get(name)) asked.set(name, query.get(name));
  asked.set("sort", query.get("sort") ?? "-submitted");
  return asked;
}

export function JobsPage({ query }) {
  const asked = wanted(query);
  const key = asked.toString();
  const [paging, setPaging] = useState({ key, cursors: [] });
  const [chosen, setChosen] = useState({});
  useEffect(() => setChosen({}), [key]);
  // What was paged through under another filter says nothing of this one.
  const cursors = paging.key === key ? paging.cursors : [];
  const setCursors = (next) => setPaging({ key, cursors: next });
  const after = cursors.at(-1);
  const address = `/jobs?${key}&limit=${PAGE}${after ? `&after=${encodeURIComponent(after)}` : ""}`;
  const live = useLive((signal) => get(address, { signal }), { key: address, every: 10_000, gap: 2000, keeps: true });
  const queues = useLive((signal) => get("/queues", { signal }), { every: 15_000, gap: 5000 });
  const change = (changes) => {
    const next = new URLSearchParams(query);
    for (const [name, value] of Object.entries(changes)) {
      next.delete(name);
      for (const one of [value].flat()) if (one) next.append(name, one);
    }
    navigate(to.jobs(next.toString()), { replace: true });
  };
  return html`<${Page} title="Jobs">
    <${Filters} query=${query} change=${change} queues=${queues.data?.queues} />
    <div aria-busy=${live.isOld}><${Known} live=${live} what="jobs">${(page) => html`
      <${Listing} page=${page} asked=${asked} change=${change} chosen=${chosen} setChosen=${setChosen} reload=${live.reload} />
      <div class="row pager" role="group" aria-label="Pages">
        <span class="soft">${page.jobs.length ? `${count(cursors.length * PAGE + 1)}–${count(cursors.length * PAGE + page.jobs.length)}` : ""}</span>
        <span class="grow" />
        <button disabled=${!cursors.length} onClick=${() => setCursors([])}>First</button>
        <button disabled=${!cursors.length} onClick=${() => setCursors(cursors.slice(0, -1))}>Previous</button>
        <button disabled=${!page.after} onClick=${() => setCursors([...cursors, page.after])}>Next</button>
      </div>`}<//></div>
  <//>`;
}

function Listing({ page, asked, change, chosen, setChosen, reload }) {
  const who = useStore(caller);
  const sort = asked.get("sort");
  const mayChoose = !who || page.jobs.some((job) => mayAct(who, job.queue));
  const columns = useMemo(() => (mayChoose ? COLUMNS : COLUMNS.slice(1)), [mayChoose]);
  const table = useTable({
    data: page.jobs,
    columns,
    rowId: (job) => job.id,
    sorting: [{ id: sort.replace(/^-/, ""), desc: sort.startsWith("-") }],
    onSorting: ([first]) => change({ sort: `${first.desc ? "-" : ""}${first.id}` }),
    selection: chosen,
    onSelection: setChosen,
  });
  if (!page.jobs.length) {
    const isNarrowed = [...asked.keys()].some((name) => name !== "sort");
    return isNarrowed
      ? html`<${Empty} title="No job fits">
          <button onClick=${() => navigate(to.jobs())}>Clear all filters</button>
        <//>`
      : html`<${Empty} title="There are no jobs yet">Submit some with <code>loraloom submit jobs.yaml</code>.<//>`;
  }
  const jobs = page.jobs.filter((job) => chosen[job.id]);
  return html`
    ${jobs.length > 0 &&
    html`<div class="chosen-bar">
      <${BulkActions} jobs=${jobs} onDone=${() => (setChosen({}), reload())} />
      <button class="quiet" onClick=${() => setChosen({})}>Choose none</button>
    </div>`}
    <${Table} table=${table} caption="Jobs" rowStyle=${(job) => threadStyle(job.id)} />
  `;
}

function Filters({ query, change, queues }) {
  const states = query.getAll("state");
  const numbers = sumOfStates(queues ?? []);
  const toggle = (state) => change({ state: states.includes(state) ? states.filter((one) => one !== state) : [...states, state] });
  const isNarrowed = states.length > 0 || TEXTS.some((name) => query.get(name));
  return html`<search class="filters">
    <div class="row" role="group" aria-label="States">
      ${STATES.map(
        (state) => html`<button key=${state} class="chip" aria-pressed=${states.includes(state)} onClick=${() => toggle(state)}>
          <${State} state=${state} /> <span class="number">${queues ? count(numbers[state] ?? 0) : ""}</span>
        </button>`,
      )}
    </div>
    <div class="row">
      <${Text} name="q" label="Name or id" query=${query} change=${change} type="search" />
      <${Text} name="label" label="Label" query=${query} change=${change} placeholder="key=value" />
      <label><span>Queue</span>
        <select value=${query.get("queue") ?? ""} onChange=${(event) => change({ queue: event.target.value })}>
          <option value="">all</option>
          ${(queues ?? []).map((queue) => html`<option key=${queue.name} value=${queue.name}>${queue.name}</option>`)}
        </select>
      </label>
      <${Text} name="owner" label="Owner" query=${query} change=${change} />
      <${Text} name="sweep" label="Sweep" query=${query} change=${change} />
      <button class="quiet" disabled=${!isNarrowed} onClick=${() => navigate(to.jobs(), { replace: true })}>Clear</button>
    </div>
  </search>`;
}

function Text({ name, label, query, change, type = "text", placeholder }) {
  const known = query.get(name) ?? "";
  const [text, setText] = useState(known);
  useEffect(() => setText(known), [known]);
  useEffect(() => {
    if (text === known) return undefined;
    const timer = setTimeout(() => change({ [name]: text.trim() }), TYPING_MILLISECONDS);
    return () => clearTimeout(timer);
  }, [text]);
  return html`<label><span>${label}</span>
    <input type=${type} name=${name} value=${text} placeholder=${placeholder} maxlength="200" onInput=${(event) => setText(event.target.value)} />
  </label>`;
}
