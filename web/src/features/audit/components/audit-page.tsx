// Who did what to which record, and whether it worked.
import { useInfiniteQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { Download, RotateCw, ScrollText } from "lucide-react";
import { useCallback, useMemo, useState, type ReactNode } from "react";
import { ColumnChooser } from "@/components/data-table/column-chooser";
import { DataTable } from "@/components/data-table/table";
import type { Column } from "@/components/data-table/types";
import { Button, buttonClass } from "@/components/ui/button";
import { EmptyState, ProblemNote } from "@/components/ui/problem";
import { RelativeTime } from "@/components/ui/time";
import { actionWords } from "@/features/audit/actions";
import { actor, EntryDialog, resource } from "@/features/audit/components/entry-dialog";
import { Filters } from "@/features/audit/components/filters";
import { Result } from "@/features/audit/components/result";
import { SummaryStrip } from "@/features/audit/components/summary";
import {
  auditFilter,
  auditQuery,
  DEFAULT_RANGE,
  exportHref,
  rangeStart,
} from "@/features/audit/queries";
import type { AuditEntry } from "@/lib/api/types";
import { humanize } from "@/lib/format/labels";
import { count } from "@/lib/format/numbers";
import { exact } from "@/lib/format/time";
import { auditSearch, type AuditSearch } from "@/lib/url";

const rowId = (entry: AuditEntry) => entry.id;

function column(
  id: string,
  label: string,
  size: number,
  cell: (entry: AuditEntry) => ReactNode,
  hidden = false,
): Column<AuditEntry> {
  return {
    id,
    header: label,
    size,
    cell: ({ row }) => cell(row.original),
    meta: { label, hidden },
  };
}

const COLUMNS: Column<AuditEntry>[] = [
  column("when", "When", 120, (e) => <RelativeTime at={e.timestamp} className="text-muted" />),
  column("who", "Who", 190, actor),
  column("action", "Action", 200, (e) => (
    <span className="font-medium">{actionWords(e.action)}</span>
  )),
  column("resource", "What", 230, (e) => (
    <span>
      <span className="text-muted">{humanize(e.resource_type ?? "")}</span> {resource(e)}
    </span>
  )),
  column("result", "Result", 110, (e) => <Result result={e.result} />),
  column("ip", "From", 130, (e) => (
    <span className="font-mono text-xs">{e.ip_address ?? "–"}</span>
  )),
  column(
    "request",
    "Request id",
    170,
    (e) => <span className="font-mono text-xs">{e.request_id ?? "–"}</span>,
    true,
  ),
];

/** The search in the address, and how to change it. */
function useAuditSearch(): [AuditSearch, (next: AuditSearch) => void] {
  const raw = useSearch({ strict: false });
  const navigate = useNavigate();
  const search = useMemo(() => auditSearch(raw), [raw]);
  const change = useCallback(
    (next: AuditSearch) =>
      void navigate({ to: "/audit", search: auditSearch({ ...next }), replace: true }),
    [navigate],
  );
  return [search, change];
}

export function AuditPage(): ReactNode {
  const [search, setSearch] = useAuditSearch();
  // The same moment for all pages of a list; "Refresh" takes a new one.
  const [now, setNow] = useState(() => Date.now());
  const filter = useMemo(() => auditFilter(search, now), [search, now]);
  const list = useInfiniteQuery(auditQuery(filter));
  const client = useQueryClient();
  const [open, setOpen] = useState<AuditEntry | null>(null);
  const rows = useMemo(() => list.data?.pages.flatMap((page) => page.data) ?? [], [list.data]);
  const { hasNextPage, isFetchingNextPage, fetchNextPage } = list;
  // One more row than is there, as long as there may be more.
  const total = rows.length + (hasNextPage ? 1 : 0);
  const lookedBackTo = list.data?.pages.at(-1)?.searched_back_to ?? null;
  const refresh = () => {
    setNow(Date.now());
    void client.invalidateQueries({ queryKey: ["audit-summary"] });
  };
  const onReach = useCallback(
    (index: number) => {
      if (index >= rows.length - 20 && hasNextPage && !isFetchingNextPage) void fetchNextPage();
    },
    [rows.length, hasNextPage, isFetchingNextPage, fetchNextPage],
  );
  return (
    <div className="flex h-full flex-col gap-3 pt-4">
      <header className="flex items-center justify-between gap-2 px-4 sm:px-6">
        <h1 className="text-xl font-semibold tracking-tight">Audit</h1>
        <div className="flex gap-2">
          <a className={buttonClass()} href={exportHref(filter, "csv")} download>
            <Download size={14} aria-hidden /> CSV
          </a>
          <a
            className={`${buttonClass()} max-sm:hidden`}
            href={exportHref(filter, "jsonl")}
            download
          >
            <Download size={14} aria-hidden /> JSON lines
          </a>
          <Button onClick={refresh} busy={list.isRefetching}>
            <RotateCw size={14} aria-hidden /> <span className="max-sm:sr-only">Refresh</span>
          </Button>
          <ColumnChooser name="audit" columns={COLUMNS} />
        </div>
      </header>
      <SummaryStrip
        from={rangeStart(search.since ?? DEFAULT_RANGE, now)}
        onAction={(action) => setSearch({ ...search, action })}
        onActor={(one) => setSearch({ ...search, actor: one })}
      />
      <Filters search={search} onChange={setSearch} />
      {hasNextPage && rows.length < 20 && (
        <p className="flex items-center gap-3 px-4 text-sm text-muted sm:px-6">
          <span>
            Looked back to {exact(lookedBackTo)}: {count(rows.length)} found so far.
          </span>
          <Button size="sm" onClick={() => void fetchNextPage()} busy={isFetchingNextPage}>
            Look further
          </Button>
        </p>
      )}
      <div className="flex min-h-0 flex-1 border-t border-line">
        {list.isError && rows.length === 0 ? (
          <div className="w-full max-w-2xl p-4 sm:p-6">
            <ProblemNote
              error={list.error}
              title="The audit log could not be loaded"
              onRetry={() => void list.refetch()}
            />
          </div>
        ) : (
          <DataTable
            name="audit"
            label="Audit log"
            columns={COLUMNS}
            rows={rows}
            rowId={rowId}
            total={total}
            loading={list.isPending}
            onReach={onReach}
            onOpen={setOpen}
            compact={(entry) => (
              <button
                type="button"
                className="block w-full text-left"
                onClick={() => setOpen(entry)}
              >
                <span className="flex justify-between gap-3">
                  <span className="truncate font-medium">{actionWords(entry.action)}</span>
                  <RelativeTime at={entry.timestamp} className="shrink-0 text-sm text-muted" />
                </span>
                <span className="flex items-center gap-2 text-sm text-muted">
                  <Result result={entry.result} />
                  <span className="truncate">
                    {actor(entry)} · {resource(entry)}
                  </span>
                </span>
              </button>
            )}
            empty={
              <EmptyState
                icon={<ScrollText size={20} aria-hidden />}
                title={hasNextPage ? "Nothing found yet" : "Nothing was found"}
              >
                Each change, sign-in, denial and export leaves a row here that nobody can take away.
                {hasNextPage
                  ? " There is more to look at."
                  : " Try a longer time or fewer filters."}
              </EmptyState>
            }
          />
        )}
      </div>
      {open !== null && <EntryDialog entry={open} onClose={() => setOpen(null)} />}
    </div>
  );
}
