// Tables: their logic is table-core's, their looks are ours.
import { classes, html, useMemo, useRef, useState } from "../dom.js";
import { createTable, getCoreRowModel, getSortedRowModel } from "../../vendor/table-core.js";

/**
 * A table of `data` by `columns` (`{id, header, accessorFn, cell, enableSorting, meta: {align, isWide, label}}`).
 *
 * @param sorting state owned elsewhere, such as in the address; with `onSorting` the order of the data is not touched
 * @param selection chosen rows by id; with `onSelection` rows can be chosen
 */
export function useTable({ data, columns, rowId, sorting, onSorting, selection, onSelection }) {
  const [own, setOwn] = useState(sorting ?? []);
  const table = useRef(null);
  const isElsewhere = Boolean(onSorting);
  const apply = (known, setter) => (updater) => setter(typeof updater === "function" ? updater(known) : updater);
  const sorted = isElsewhere ? sorting : own;
  const options = {
    data,
    columns,
    getRowId: rowId,
    getCoreRowModel: useMemo(() => getCoreRowModel(), []),
    getSortedRowModel: useMemo(() => getSortedRowModel(), []),
    manualSorting: isElsewhere,
    enableSortingRemoval: false,
    enableMultiSort: false,
    sortDescFirst: false,
    enableRowSelection: Boolean(onSelection),
    onSortingChange: apply(sorted, isElsewhere ? onSorting : setOwn),
    onRowSelectionChange: apply(selection ?? {}, onSelection ?? (() => {})),
    onStateChange: () => {},
    renderFallbackValue: null,
  };
  table.current ??= createTable({ ...options, state: {} });
  table.current.setOptions((before) => ({
    ...before,
    ...options,
    state: { ...table.current.initialState, sorting: sorted, rowSelection: selection ?? {} },
  }));
  return table.current;
}

const render = (part, context) => (typeof part === "function" ? part(context) : part);

/** The table itself, with a caption for those who cannot see what is around it. */
export function Table({ table, caption, rowStyle }) {
  return html`<div class="table-scroll" tabindex="0" role="region" aria-label=${caption}>
    <table>
      <caption class="unseen">${caption}</caption>
      <thead>
        ${table.getHeaderGroups().map(
          (group) => html`<tr key=${group.id}>${group.headers.map((header) => html`<${Header} key=${header.id} header=${header} />`)}</tr>`,
        )}
      </thead>
      <tbody>
        ${table.getRowModel().rows.map(
          (row) => html`<tr key=${row.id} class=${row.getIsSelected() ? "chosen" : ""} style=${rowStyle?.(row.original)}>
            ${row.getVisibleCells().map(
              (cell) => html`<td key=${cell.id} class=${looks(cell.column.columnDef)}>
                ${render(cell.column.columnDef.cell ?? (({ getValue }) => getValue()), cell.getContext())}
              </td>`,
            )}
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

function Header({ header }) {
  const { column } = header;
  const way = column.getIsSorted();
  const title = render(column.columnDef.header, header.getContext());
  const said = { asc: "ascending", desc: "descending" }[way];
  return html`<th scope="col" class=${looks(column.columnDef)} aria-sort=${said}>
    ${column.getCanSort()
      ? html`<button class="sort" onClick=${column.getToggleSortingHandler()}>
          ${title}<span class="way" aria-hidden="true">${{ asc: "▴", desc: "▾" }[way] ?? ""}</span>
        </button>`
      : title}
  </th>`;
}

const looks = ({ meta = {} }) => classes(meta.align === "right" && "right", meta.isWide && "wide-only", meta.class);

/** The column of boxes that rows are chosen by. */
export const choosing = (nameOf) => ({
  id: "choose",
  enableSorting: false,
  header: ({ table }) => html`<input
    type="checkbox"
    aria-label="Choose all rows shown"
    checked=${table.getIsAllRowsSelected()}
    onChange=${table.getToggleAllRowsSelectedHandler()}
  />`,
  cell: ({ row }) => html`<input
    type="checkbox"
    aria-label=${`Choose ${nameOf(row.original)}`}
    checked=${row.getIsSelected()}
    onChange=${row.getToggleSelectedHandler()}
  />`,
  meta: { class: "choose" },
});
