// Who did what to which record, and whether it worked.
import { useInfiniteQuery } from "@tanstack/react-query";
import { CircleCheck, CircleX, RotateCw, ScrollText, ShieldX } from "lucide-react";
import { useCallback, useMemo, useState, type ReactNode } from "react";
import { ColumnChooser } from "@/components/data-table/column-chooser";
import { DataTable } from "@/components/data-table/table";
import type { Column } from "@/components/data-table/types";
import { Button } from "@/components/ui/button";
import { CopyText } from "@/components/ui/copy";
import { Dialog } from "@/components/ui/dialog";
import { Facts } from "@/components/ui/panel";
import { EmptyState, ProblemNote } from "@/components/ui/problem";
import { RelativeTime } from "@/components/ui/time";
import { actionWords } from "@/features/audit/actions";
import { auditQuery } from "@/features/audit/queries";
import type { AuditEntry } from "@/lib/api/types";
import { humanize } from "@/lib/format/labels";
import { count } from "@/lib/format/numbers";
import { exact } from "@/lib/format/time";

const rowId = (entry: AuditEntry) => entry.id;

function Result({ result }: { result: string }) {
  const good = result === "success" || result === "ok";
  const denied = result === "denied" || result === "forbidden";
  const Icon = good ? CircleCheck : denied ? ShieldX : CircleX;
  return (
    <span className="inline-flex items-center gap-1.5 align-middle">
      <Icon
        size={14}
        className={good ? "text-online" : denied ? "text-warning" : "text-critical"}
        aria-hidden
      />
      {humanize(result)}
    </span>
  );
}

function actor(entry: AuditEntry): string {
  return entry.actor_email ?? humanize(entry.actor_type);
}

function resource(entry: AuditEntry): string {
  return entry.resource_name ?? entry.resource_id ?? "";
}

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

export function AuditPage(): ReactNode {
  const list = useInfiniteQuery(auditQuery);
  const [open, setOpen] = useState<AuditEntry | null>(null);
  const rows = useMemo(() => list.data?.pages.flatMap((page) => page.data) ?? [], [list.data]);
  const total = list.data?.pages[0]?.total ?? 0;
  const { hasNextPage, isFetchingNextPage, fetchNextPage } = list;
  const onReach = useCallback(
    (index: number) => {
      if (index >= rows.length - 20 && hasNextPage && !isFetchingNextPage) void fetchNextPage();
    },
    [rows.length, hasNextPage, isFetchingNextPage, fetchNextPage],
  );
  return (
    <div className="flex h-full flex-col gap-3 pt-4">
      <header className="flex items-center justify-between gap-2 px-4 sm:px-6">
        <h1 className="text-xl font-semibold tracking-tight">
          Audit{" "}
          <span className="text-base font-normal text-muted tabular">
            {list.data === undefined ? "" : count(total)}
          </span>
        </h1>
        <div className="flex gap-2">
          <Button onClick={() => void list.refetch()} busy={list.isRefetching}>
            <RotateCw size={14} aria-hidden /> <span className="max-sm:sr-only">Refresh</span>
          </Button>
          <ColumnChooser name="audit" columns={COLUMNS} />
        </div>
      </header>
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
                title="Nothing has been done yet"
              >
                Each change, sign-in and enrolment leaves a row here that nobody can take away.
              </EmptyState>
            }
          />
        )}
      </div>
      {open !== null && <EntryDialog entry={open} onClose={() => setOpen(null)} />}
    </div>
  );
}

function hasDetails(details: unknown): boolean {
  return typeof details === "object" && details !== null && Object.keys(details).length > 0;
}

function EntryDialog({ entry, onClose }: { entry: AuditEntry; onClose: () => void }) {
  const copyable = (value: string | null | undefined) =>
    value == null ? "–" : <CopyText value={value} />;
  return (
    <Dialog open onClose={onClose} title={actionWords(entry.action)} place="right">
      <Facts
        items={[
          ["When", exact(entry.timestamp)],
          ["Who", actor(entry)],
          ["What", `${humanize(entry.resource_type ?? "")} ${resource(entry)}`],
          ["Result", <Result key="result" result={entry.result} />],
          ["From", copyable(entry.ip_address)],
          ["Record id", copyable(entry.resource_id)],
          ["Request id", copyable(entry.request_id)],
        ]}
      />
      {hasDetails(entry.details) && (
        <>
          <h3 className="mt-5 mb-1.5 text-sm font-semibold">Details</h3>
          <pre className="overflow-auto rounded-md border border-line bg-surface-2 p-3 font-mono text-xs break-words whitespace-pre-wrap">
            {JSON.stringify(entry.details, null, 2)}
          </pre>
        </>
      )}
    </Dialog>
  );
}
