// Header cells: sort on click, width on drag.
import { flexRender, type Header } from "@tanstack/react-table";
import { ArrowDown, ArrowUp } from "lucide-react";
import type { SortState } from "@/components/data-table/types";
import { cn } from "@/lib/cn";

function SortMark({ sort, id }: { sort: SortState | null; id: string }) {
  if (sort?.field !== id) return null;
  const Icon = sort.descending ? ArrowDown : ArrowUp;
  return <Icon size={12} className="shrink-0 text-accent-ink" aria-hidden />;
}

export function HeaderCell<T>({
  header,
  sort,
  onSort,
}: {
  header: Header<T, unknown>;
  sort: SortState | null;
  onSort: ((sort: SortState) => void) | undefined;
}) {
  const { column } = header;
  const { meta } = column.columnDef;
  const sortable = onSort !== undefined && column.getCanSort();
  const active = sort?.field === column.id;
  const content = flexRender(column.columnDef.header, header.getContext());
  return (
    <th
      scope="col"
      aria-sort={active ? (sort.descending ? "descending" : "ascending") : undefined}
      className={cn(
        "relative h-9 border-b border-line bg-surface px-2 text-left text-xs font-medium text-muted first:pl-4",
        meta?.align === "right" && "text-right",
      )}
    >
      {sortable ? (
        <button
          type="button"
          onClick={() =>
            onSort({
              field: column.id,
              descending: active ? !sort.descending : meta?.highFirst === true,
            })
          }
          className={cn(
            "-mx-1 inline-flex max-w-full items-center gap-1 rounded px-1 py-0.5 hover:text-text",
            active && "text-text",
          )}
        >
          <span className="truncate">{content}</span>
          <SortMark sort={sort} id={column.id} />
        </button>
      ) : (
        <span className="block truncate">{content}</span>
      )}
      {column.getCanResize() && (
        // A pointer's tool only: the width carries no meaning that a keyboard would miss.
        <span
          aria-hidden
          onMouseDown={header.getResizeHandler()}
          onTouchStart={header.getResizeHandler()}
          onDoubleClick={() => column.resetSize()}
          className={cn(
            "absolute top-2 right-0 bottom-2 w-[3px] cursor-col-resize touch-none rounded hover:bg-line-strong",
            column.getIsResizing() && "bg-accent",
          )}
        />
      )}
    </th>
  );
}
