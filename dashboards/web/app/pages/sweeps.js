// Sweeps, the newest first.
import { get } from "../api.js";
import { html } from "../dom.js";
import { count } from "../format.js";
import { useLive } from "../live.js";
import { Empty, Known } from "../parts/notices.js";
import { Page, When } from "../parts/page.js";
import { isEnded, StateBar } from "../parts/state.js";
import { Table, useTable } from "../parts/table.js";
import { Link, to } from "../router.js";

const total = ({ states }) => Object.values(states).reduce((sum, number) => sum + number, 0);
const ended = ({ states }) => Object.keys(states).filter(isEnded).reduce((sum, state) => sum + states[state], 0);

const COLUMNS = [
  { id: "name", header: "Sweep", accessorKey: "name", cell: ({ row }) => html`<${Link} href=${to.sweep(row.original.id)}>${row.original.name}<//>`, meta: { class: "name" } },
  { id: "jobs", header: "Jobs", accessorFn: total, meta: { align: "right" } },
  { id: "ended", header: "Ended", accessorFn: ended, cell: ({ getValue }) => count(getValue()), meta: { align: "right" } },
  { id: "states", header: "States", enableSorting: false, cell: ({ row }) => html`<${StateBar} states=${row.original.states} />` },
  { id: "submitted", header: "Submitted", accessorKey: "submitted_unix_seconds", cell: ({ getValue }) => html`<${When} at=${getValue()} />` },
  { id: "id", header: "Id", accessorKey: "id", enableSorting: false, meta: { isWide: true, class: "mono" } },
];

export function SweepsPage() {
  const live = useLive((signal) => get("/sweeps", { signal }), { every: 10_000 });
  return html`<${Page} title="Sweeps"><${Known} live=${live} what="sweeps">${({ sweeps }) => html`<${Listing} sweeps=${sweeps} />`}<//><//>`;
}

function Listing({ sweeps }) {
  const table = useTable({ data: sweeps, columns: COLUMNS, rowId: (sweep) => sweep.id });
  if (!sweeps.length) {
    return html`<${Empty} title="There are no sweeps yet">A <code>sweep</code> block in a spec makes one document many jobs.<//>`;
  }
  return html`<${Table} table=${table} caption="Sweeps" />`;
}
