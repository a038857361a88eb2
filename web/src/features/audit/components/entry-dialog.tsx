// One entry whole: who, what, and each field before and after.
import { KeyRound } from "lucide-react";
import { CopyText } from "@/components/ui/copy";
import { Dialog } from "@/components/ui/dialog";
import { Facts } from "@/components/ui/panel";
import { actionWords } from "@/features/audit/actions";
import { changeRows, type ChangeRow } from "@/features/audit/changes";
import { Result } from "@/features/audit/components/result";
import type { AuditEntry } from "@/lib/api/types";
import { humanize } from "@/lib/format/labels";
import { exact } from "@/lib/format/time";

export function actor(entry: AuditEntry): string {
  return entry.actor_email ?? humanize(entry.actor_type);
}

export function resource(entry: AuditEntry): string {
  return entry.resource_name ?? entry.resource_id ?? "";
}

function hasDetails(details: unknown): boolean {
  return typeof details === "object" && details !== null && Object.keys(details).length > 0;
}

export function EntryDialog({ entry, onClose }: { entry: AuditEntry; onClose: () => void }) {
  const copyable = (value: string | null | undefined) =>
    value == null ? "–" : <CopyText value={value} />;
  const rows = changeRows(entry.changes);
  return (
    <Dialog
      open
      onClose={onClose}
      title={actionWords(entry.action)}
      place="right"
      className="sm:w-[560px]"
    >
      <Facts
        items={[
          ["When", exact(entry.timestamp)],
          ["Who", actor(entry)],
          ["What", `${humanize(entry.resource_type ?? "")} ${resource(entry)}`],
          ["Result", <Result key="result" result={entry.result} />],
          ...(entry.error_message === null
            ? []
            : ([["Why", humanize(entry.error_message)]] as [string, string][])),
          ["From", copyable(entry.ip_address)],
          ["With", entry.user_agent ?? "–"],
          ["Action", copyable(entry.action)],
          ["Record id", copyable(entry.resource_id)],
          ["Request id", copyable(entry.request_id)],
          ["Chain", copyable(`${entry.chain} · ${entry.sequence}`)],
        ]}
      />
      {rows.length > 0 && <Difference rows={rows} />}
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

function Side({ value, kind }: { value: string | null; kind: "before" | "after" }) {
  if (value === null) return <span className="text-faint">not set</span>;
  return (
    <span
      className={
        kind === "before"
          ? "rounded-sm bg-critical-soft px-1 text-text line-through decoration-critical/60"
          : "rounded-sm bg-online-soft px-1 text-text"
      }
    >
      {value}
    </span>
  );
}

function Difference({ rows }: { rows: ChangeRow[] }) {
  return (
    <>
      <h3 className="mt-5 mb-1.5 text-sm font-semibold">Changes</h3>
      <div className="overflow-hidden rounded-md border border-line">
        <table className="w-full table-fixed text-sm">
          <thead className="bg-surface-2 text-left text-xs text-muted">
            <tr>
              <th className="px-3 py-1.5 font-medium">Field</th>
              <th className="px-3 py-1.5 font-medium">Before</th>
              <th className="px-3 py-1.5 font-medium">After</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <tr key={row.path} className="border-t border-line align-top">
                <th scope="row" className="px-3 py-1.5 text-left font-medium break-words">
                  {row.label}
                </th>
                {row.secret ? (
                  <td colSpan={2} className="px-3 py-1.5 text-muted">
                    <KeyRound size={13} className="mr-1.5 inline" aria-hidden />A secret: that it
                    changed is told, not what it is
                  </td>
                ) : (
                  <>
                    <td className="px-3 py-1.5 break-words">
                      <Side value={row.before} kind="before" />
                    </td>
                    <td className="px-3 py-1.5 break-words">
                      <Side value={row.after} kind="after" />
                    </td>
                  </>
                )}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}
