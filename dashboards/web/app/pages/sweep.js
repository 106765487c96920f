// A sweep: its jobs by what they reached, only what differs between them, and their curves together.
import { each, get } from "../api.js";
import { columns, fetchCurves } from "../curves.js";
import { html, useEffect, useMemo, useState } from "../dom.js";
import { figure, loss, plain, plural } from "../format.js";
import { useLive } from "../live.js";
import { Chart } from "../parts/chart.js";
import { Progress } from "../parts/meter.js";
import { Empty, Known } from "../parts/notices.js";
import { Page, Panel, Tabs } from "../parts/page.js";
import { isEnded, State, StateBar } from "../parts/state.js";
import { choosing, Table, useTable } from "../parts/table.js";
import { Link, to } from "../router.js";
import { thread, threadStyle } from "../threads.js";

const FIRST_CURVES = 12;
const MOST_CURVES = 24;
const METRICS = [["Held-out loss", "eval_loss"], ["Train loss", "loss"]];
const COMPARED_BY = { eval_loss: "held-out loss", eval_exact_match: "exact match", train_loss: "loss" };
// Every job has its own: they tell nothing of what was tried.
const NO_PARAMETERS = new Set(["labels.sweep", "name"]);

export function SweepPage({ id }) {
  const ids = new Set();
  const concerns = (event) => ids.has(event.job_id);
  const isDone = (found) => Boolean(found?.jobs.every((job) => isEnded(job.state)));
  const live = useLive((signal) => get(`/sweeps/${encodeURIComponent(id)}`, { signal }), { key: id, every: 5000, concerns, isDone });
  const isSettled = isDone(live.data);
  for (const job of live.data?.jobs ?? []) ids.add(job.id);
  if (live.problem?.status === 404 && !live.data) {
    return html`<${Page} title="No such sweep"><${Empty} title="There is no sweep of that id">
      Its jobs may have been pruned. <${Link} href=${to.sweeps()}>All sweeps<//>
    <//><//>`;
  }
  const name = live.data?.jobs[0]?.labels.sweep ?? id;
  return html`<${Page} title=${name} heading=${`Sweep ${name}`}>
    <${Known} live=${live} what="the sweep">${(sweep) => html`<${Body} sweep=${sweep} isSettled=${isSettled} />`}<//>
  <//>`;
}

function Body({ sweep, isSettled }) {
  const up = sweep.goal === "maximize" ? -1 : 1;
  const worth = (job) => (job.progress[sweep.metric] === null ? Infinity : up * job.progress[sweep.metric]);
  const [chosen, setChosen] = useState(null);
  const first = useMemo(() => {
    const ranked = [...sweep.jobs].sort((a, b) => (worth(a) < worth(b) ? -1 : worth(a) > worth(b) ? 1 : 0)).slice(0, FIRST_CURVES);
    return Object.fromEntries(ranked.map((job) => [job.id, true]));
  }, [sweep.id]);
  const selection = chosen ?? first;
  const fields = sweep.varies.filter((field) => !NO_PARAMETERS.has(field));
  const jobs = sweep.jobs.filter((job) => selection[job.id]);
  return html`
    <p class="row sweep-head"><${StateBar} states=${sweep.states} /> <span>${plural(sweep.jobs.length, "job")};
      ${fields.length ? html` they differ in ${fields.map((field, at) => html`${at ? ", " : ""}<code>${field}</code>`)}` : " they are alike"}.</span></p>
    <${Panel} title="Curves together" aside=${html`<span class="soft">${plural(jobs.length, "job")} chosen below</span>`}>
      <${Curves} jobs=${jobs} isSettled=${isSettled} />
    <//>
    <${Panel} title="Jobs by what they reached" aside=${html`<span class="soft">compared by ${COMPARED_BY[sweep.metric]}, the ${up < 0 ? "higher" : "lower"} the better</span>`}>
      <${Listing} sweep=${sweep} fields=${fields} selection=${selection} setSelection=${setChosen} />
    <//>
  `;
}

function Listing({ sweep, fields, selection, setSelection }) {
  const columnsOf = useMemo(
    () => [
      choosing((job) => job.name),
      { id: "name", header: "Job", accessorKey: "name", cell: ({ row: { original: job } }) => html`<i class="thread" /><${Link} href=${to.job(job.id)}>${job.name}<//>${job.id === sweep.best && html` <span class="soft">best</span>`}`, meta: { class: "name" } },
      ...fields.map((field) => ({
        id: field,
        header: html`<span title=${field}>${field.split(".").pop()}</span>`,
        accessorFn: (job) => job.values[field],
        cell: ({ getValue }) => (typeof getValue() === "number" ? figure(getValue()) : plain(getValue())),
        sortUndefined: "last",
        meta: { align: "right" },
      })),
      { id: "eval_loss", header: "Held-out loss", accessorFn: (job) => job.progress.eval_loss ?? undefined, cell: ({ getValue }) => loss(getValue()), sortUndefined: "last", meta: { align: "right", isWide: sweep.metric === "eval_exact_match" } },
      { id: "eval_exact_match", header: "Exact match", accessorFn: (job) => job.progress.eval_exact_match ?? undefined, cell: ({ getValue }) => (getValue() === undefined ? "–" : `${(100 * getValue()).toFixed(1)} %`), sortUndefined: "last", meta: { align: "right", isWide: sweep.metric !== "eval_exact_match" } },
      { id: "train_loss", header: "Loss", accessorFn: (job) => job.progress.train_loss ?? undefined, cell: ({ getValue }) => loss(getValue()), sortUndefined: "last", meta: { align: "right" } },
      { id: "steps", header: "Steps", accessorFn: (job) => job.progress.step, cell: ({ row }) => html`<${Progress} progress=${row.original.progress} />`, meta: { isWide: true } },
      { id: "state", header: "State", accessorKey: "state", cell: ({ getValue }) => html`<${State} state=${getValue()} />` },
    ],
    [fields.join(" "), sweep.best, sweep.metric],
  );
  const table = useTable({
    data: sweep.jobs,
    columns: columnsOf,
    rowId: (job) => job.id,
    sorting: [{ id: sweep.metric, desc: sweep.goal === "maximize" }],
    selection,
    onSelection: setSelection,
  });
  return html`<${Table} table=${table} caption="Jobs of the sweep" rowStyle=${(job) => threadStyle(job.id)} />`;
}

function Curves({ jobs, isSettled }) {
  const shown = jobs.slice(0, MOST_CURVES);
  const ids = shown.map((job) => job.id);
  const [metric, setMetric] = useState("loss");
  const live = useLive((signal, known) => fetchAll(ids, signal, known), { key: ids.join(" "), every: isSettled ? 0 : 6000, concerns: () => false });
  const chart = useMemo(() => together(shown, live.data, metric), [live.data, metric, ids.join(" ")]);
  const hasEval = [...(live.data?.values() ?? [])].some(({ points }) => points.some((point) => point.kind === "eval"));
  useEffect(() => {
    if (!hasEval) setMetric("loss");
  }, [hasEval]);
  if (!shown.length) return html`<${Empty} title="No job is chosen">Choose some in the table below.<//>`;
  return html`
    ${hasEval &&
    html`<${Tabs} className="end" label="Which curve" choices=${METRICS} value=${metric} onChoose=${setMetric} />`}
    <${Known} live=${live} what="curves">${() => !chart.x.length ? html`<${Empty} title="No curves yet">They begin with the first step that is logged.<//>` : html`<${Chart} title=${METRICS.find(([, value]) => value === metric)[0]} ...${chart} height=${260} />`}<//>
    ${jobs.length > MOST_CURVES && html`<p class="aside">Only the first ${MOST_CURVES} of ${jobs.length} are drawn.</p>`}
  `;
}

async function fetchAll(ids, signal, known) {
  const found = new Map();
  await each(ids, async (id) => found.set(id, await fetchCurves(id, signal, known?.get(id))));
  return found;
}

function together(jobs, curves, metric) {
  const found = jobs.map((job) => [job, columns(curves?.get(job.id)?.points ?? [], [metric])]);
  const steps = [...new Set(found.flatMap(([, one]) => one.steps))].sort((a, b) => a - b);
  const at = new Map(steps.map((step, index) => [step, index]));
  const series = found.map(([job, one]) => {
    const values = new Array(steps.length).fill(null);
    one.steps.forEach((step, index) => {
      values[at.get(step)] = one[metric][index];
    });
    return { label: job.name, colour: `--thread-${thread(job.id)}`, values };
  });
  return { x: steps, series };
}
