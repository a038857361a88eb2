// The one table: sticky header, virtual rows, sort, selection, keyboard. Rows that are not loaded
// yet are skeletons of the same height, so the scroll bar is right from the start.
import { flexRender, getCoreRowModel, useReactTable, type Row } from "@tanstack/react-table";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useEffect, useLayoutEffect, useMemo, useRef, useState, type ReactNode } from "react";
import { HeaderCell } from "@/components/data-table/header";
import { useTablePrefs, visibilityOf } from "@/components/data-table/prefs";
import type { Selection } from "@/components/data-table/selection";
import type { Column, SortState } from "@/components/data-table/types";
import { Checkbox } from "@/components/ui/form";
import { cn } from "@/lib/cn";
import { useHotkeys } from "@/lib/hotkeys";

export const ROW_PX = 36;
const COMPACT_ROW_PX = 64;
const COMPACT_BELOW_PX = 640;
const HEADER_PX = 36;
const OVERSCAN = 12;

interface DataTableProps<T> {
  /** Names the table for screen readers, and its preferences in this browser. */
  name: string;
  label: string;
  columns: Column<T>[];
  rows: T[];
  rowId: (row: T) => string;
  /** All rows there are, loaded or not. */
  total: number;
  loading?: boolean;
  sort?: SortState | null;
  onSort?: (sort: SortState) => void;
  selection?: Selection;
  /** The last row that can be seen, so that the page can load up to it. */
  onReach?: (index: number) => void;
  onOpen?: (row: T) => void;
  onPeek?: (row: T) => void;
  /** One row on a phone. */
  compact: (row: T) => ReactNode;
  empty?: ReactNode;
  /** Names what is listed: the place in it is kept for coming back, and left when it changes. */
  placeKey?: string;
  /** Grows with its rows instead of scrolling by itself. */
  auto?: boolean;
}

function useWidth(ref: React.RefObject<HTMLElement | null>): number | null {
  const [width, setWidth] = useState<number | null>(null);
  useLayoutEffect(() => {
    const element = ref.current;
    if (element === null) return;
    setWidth(element.clientWidth);
    const observer = new ResizeObserver(() => setWidth(element.clientWidth));
    observer.observe(element);
    return () => observer.disconnect();
  }, [ref]);
  return width;
}

interface Place {
  top: number;
  active: number | null;
}
const PLACES_MAX = 20;
const places = new Map<string, Place>();

function keepPlace(key: string, place: Place) {
  places.delete(key);
  places.set(key, place);
  const [oldest] = places.keys();
  if (places.size > PLACES_MAX && oldest !== undefined) places.delete(oldest);
}

/** The active row and the scrolled distance, as they were when this list was left. */
function usePlace(scroller: React.RefObject<HTMLDivElement | null>, key = "", ready = true) {
  const [state, setState] = useState(() => ({ key, active: places.get(key)?.active ?? null }));
  const active = state.key === key ? state.active : null;
  const latest = useRef(active);
  const restored = useRef<string | null>(null);
  useEffect(() => {
    latest.current = active;
  });
  useLayoutEffect(() => {
    const element = scroller.current;
    if (element === null || !ready || key === "" || restored.current === key) return;
    const first = restored.current === null;
    restored.current = key;
    element.scrollTop = first ? (places.get(key)?.top ?? 0) : 0;
  }, [key, ready, scroller]);
  useEffect(() => {
    const element = scroller.current;
    if (element === null || key === "") return;
    const keep = () => keepPlace(key, { top: element.scrollTop, active: latest.current });
    element.addEventListener("scroll", keep, { passive: true });
    return () => {
      element.removeEventListener("scroll", keep);
      const top = places.get(key)?.top ?? 0;
      keepPlace(key, { top, active: latest.current });
    };
  }, [key, scroller]);
  const setActive = (next: number) => setState({ key, active: next });
  return { active, setActive };
}

export function DataTable<T>(props: DataTableProps<T>) {
  const { columns, rows, rowId, total, selection, loading, onReach, onOpen, onPeek } = props;
  const scroller = useRef<HTMLDivElement>(null);
  const width = useWidth(scroller);
  const compact = width !== null && width < COMPACT_BELOW_PX;
  const [prefs, setPrefs] = useTablePrefs(props.name);
  const { active, setActive } = usePlace(scroller, props.placeKey, rows.length > 0);
  const visibility = useMemo(() => visibilityOf(columns, prefs), [columns, prefs]);

  const table = useReactTable({
    data: rows,
    columns,
    getRowId: rowId,
    getCoreRowModel: getCoreRowModel(),
    manualSorting: true,
    columnResizeMode: "onChange",
    state: { columnVisibility: visibility, columnSizing: prefs.sizing },
    onColumnSizingChange: (update) =>
      setPrefs({ ...prefs, sizing: typeof update === "function" ? update(prefs.sizing) : update }),
  });

  const shown = loading === true && rows.length === 0 ? 14 : Math.max(total, rows.length);
  const rowPx = compact ? COMPACT_ROW_PX : ROW_PX;
  const virtual = useVirtualizer({
    count: shown,
    getScrollElement: () => scroller.current,
    estimateSize: () => rowPx,
    overscan: OVERSCAN,
    scrollPaddingStart: HEADER_PX,
  });
  useEffect(() => virtual.measure(), [rowPx, virtual]);

  const items = virtual.getVirtualItems();
  const last = items.at(-1)?.index ?? 0;
  useEffect(() => onReach?.(last), [last, onReach, rows.length]);

  const move = (step: number) => {
    const next = Math.max(
      0,
      Math.min(rows.length - 1, (active ?? (step > 0 ? -1 : rows.length)) + step),
    );
    setActive(next);
    virtual.scrollToIndex(next, { align: "auto" });
  };
  const withActive = (action: (row: T, index: number) => void) => (event: KeyboardEvent) => {
    const row = active === null ? undefined : rows[active];
    if (row === undefined || active === null || isControl(event.target)) return;
    event.preventDefault();
    action(row, active);
  };
  useHotkeys(
    onOpen === undefined
      ? {}
      : {
          j: () => move(1),
          k: () => move(-1),
          Enter: withActive((row) => onOpen(row)),
          x: withActive((_row, index) => selection?.toggle(index, false)),
          X: withActive((_row, index) => selection?.toggle(index, true)),
          " ": withActive((row) => onPeek?.(row)),
        },
  );

  const model = table.getRowModel().rows;
  const before = items[0]?.start ?? 0;
  const after = virtual.getTotalSize() - (items.at(-1)?.end ?? 0);
  const widths = table.getVisibleLeafColumns();
  const selectPx = selection === undefined ? 0 : 40;
  const common = { selection, active, setActive, onOpen, rowId };

  return (
    <div
      ref={scroller}
      className={cn(
        "relative min-h-0 overflow-auto bg-surface",
        props.auto === true ? "max-h-[70dvh]" : "flex-1",
      )}
      aria-busy={loading}
    >
      {shown === 0 ? (
        props.empty
      ) : compact ? (
        <ul
          aria-label={props.label}
          style={{ height: virtual.getTotalSize() }}
          className="relative"
        >
          {items.map((item) => (
            <li
              key={item.key}
              className="absolute inset-x-0 border-b border-line"
              style={{ height: COMPACT_ROW_PX, transform: `translateY(${item.start}px)` }}
            >
              <CompactRow
                row={model[item.index]}
                index={item.index}
                render={props.compact}
                {...common}
              />
            </li>
          ))}
        </ul>
      ) : (
        <table
          aria-label={props.label}
          aria-rowcount={shown + 1}
          className="w-full table-fixed border-separate border-spacing-0 text-sm"
          style={{ minWidth: table.getTotalSize() + selectPx }}
        >
          <colgroup>
            {selection !== undefined && <col style={{ width: selectPx }} />}
            {widths.map((column) => (
              <col key={column.id} style={{ width: column.getSize() }} />
            ))}
          </colgroup>
          <thead className="sticky top-0 z-10">
            <tr>
              {selection !== undefined && (
                <th scope="col" className="h-9 border-b border-line bg-surface pl-4 text-left">
                  <Checkbox
                    aria-label="Select all loaded rows"
                    checked={rows.length > 0 && rows.every((row) => selection.has(rowId(row)))}
                    onChange={(event) => selection.setPage(event.target.checked)}
                    className="align-middle"
                  />
                </th>
              )}
              {table.getFlatHeaders().map((header) => (
                <HeaderCell
                  key={header.id}
                  header={header}
                  sort={props.sort ?? null}
                  onSort={props.onSort}
                />
              ))}
            </tr>
          </thead>
          <tbody>
            {before > 0 && <tr aria-hidden style={{ height: before }} />}
            {items.map((item) => {
              const row = model[item.index];
              return row === undefined ? (
                <SkeletonRow
                  key={item.key}
                  cells={widths.length + (selection === undefined ? 0 : 1)}
                  index={item.index}
                />
              ) : (
                <BodyRow key={row.id} row={row} index={item.index} {...common} />
              );
            })}
            {after > 0 && <tr aria-hidden style={{ height: after }} />}
          </tbody>
        </table>
      )}
    </div>
  );
}

/** Enter and space on a link, button or box belong to that control. */
function isControl(target: EventTarget | null): boolean {
  return (
    target instanceof Element &&
    target.closest("a, button, input, select, textarea, summary") !== null
  );
}

interface RowProps<T> {
  index: number;
  selection: Selection | undefined;
  active: number | null;
  setActive: (index: number) => void;
  onOpen: ((row: T) => void) | undefined;
  rowId: (row: T) => string;
}

function BodyRow<T>({
  row,
  index,
  selection,
  active,
  setActive,
  onOpen,
}: RowProps<T> & { row: Row<T> }) {
  const chosen = selection?.has(row.id) === true;
  return (
    // The row's link carries the name and takes the keyboard; the row only widens its target.

    <tr
      aria-rowindex={index + 2}
      aria-selected={selection === undefined ? undefined : chosen}
      data-active={active === index || undefined}
      onClick={(event) => {
        setActive(index);
        if (!isControl(event.target) && getSelection()?.isCollapsed !== false)
          onOpen?.(row.original);
      }}
      className={cn(
        "group h-9 hover:bg-surface-2/70",
        onOpen !== undefined && "cursor-pointer",
        chosen && "bg-accent-soft hover:bg-accent-soft",
        active === index && "bg-surface-2 [&>td:first-child]:shadow-[inset_3px_0_0_var(--accent)]",
      )}
    >
      {selection !== undefined && (
        <td className="border-b border-line pl-4">
          <Checkbox
            aria-label="Select row"
            checked={chosen}
            onChange={() => undefined}
            onClick={(event) => selection.toggle(index, event.shiftKey)}
            className="align-middle"
          />
        </td>
      )}
      {row.getVisibleCells().map((cell) => (
        <td
          key={cell.id}
          className={cn(
            "h-9 truncate border-b border-line px-2 first:pl-4",
            cell.column.columnDef.meta?.align === "right" && "text-right tabular",
          )}
        >
          {flexRender(cell.column.columnDef.cell, cell.getContext())}
        </td>
      ))}
    </tr>
  );
}

const SKELETON_WIDTH = ["w-3/5", "w-2/5", "w-1/2", "w-2/3"];

function SkeletonRow({ cells, index }: { cells: number; index: number }) {
  return (
    <tr aria-hidden className="h-9">
      {Array.from({ length: cells }, (_, i) => (
        <td key={i} className="border-b border-line px-2 first:pl-4">
          <div
            className={cn("h-3.5 skeleton", SKELETON_WIDTH[(index + i) % SKELETON_WIDTH.length])}
          />
        </td>
      ))}
    </tr>
  );
}

function CompactRow<T>({
  row,
  index,
  render,
  selection,
  active,
}: RowProps<T> & { row: Row<T> | undefined; render: (row: T) => ReactNode }) {
  if (row === undefined) {
    return (
      <div className="flex h-full flex-col justify-center gap-2 px-4" aria-hidden>
        <div className="h-3.5 w-2/5 skeleton" />
        <div className="h-3 w-3/5 skeleton" />
      </div>
    );
  }
  const chosen = selection?.has(row.id) === true;
  return (
    <div
      className={cn(
        "flex h-full items-center gap-3 px-4",
        chosen && "bg-accent-soft",
        active === index && "bg-surface-2",
      )}
    >
      {selection !== undefined && (
        <label className="-m-2 flex p-2">
          <Checkbox
            aria-label="Select row"
            checked={chosen}
            onChange={() => undefined}
            onClick={(event) => selection.toggle(index, event.shiftKey)}
            className="size-5"
          />
        </label>
      )}
      <div className="min-w-0 flex-1">{render(row.original)}</div>
    </div>
  );
}
