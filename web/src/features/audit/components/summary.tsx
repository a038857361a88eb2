// How much was done: a bar a day, and what and who most. A click on one filters the list.
import { useQuery } from "@tanstack/react-query";
import { Skeleton } from "@/components/ui/panel";
import { actionWords } from "@/features/audit/actions";
import { auditSummaryQuery } from "@/features/audit/queries";
import type { AuditSummary } from "@/lib/api/types";
import { count, plural } from "@/lib/format/numbers";

const HEIGHT = 64;
const NAMED = 4;
const LABEL = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });

interface Pick {
  onAction: (action: string) => void;
  onActor: (actor: string) => void;
}

export function SummaryStrip({ from, ...pick }: { from: string | undefined } & Pick) {
  const summary = useQuery(auditSummaryQuery(from));
  // Without it the list is as good.
  if (summary.isError) return null;
  return (
    <section
      aria-label="Summary"
      className="grid gap-x-8 gap-y-3 px-4 sm:px-6 lg:grid-cols-[minmax(0,2fr)_minmax(0,1fr)_minmax(0,1fr)]"
    >
      {summary.data === undefined ? (
        <Skeleton className="h-24 lg:col-span-3" />
      ) : (
        <>
          <Days summary={summary.data} />
          <Most
            title="Most frequent"
            className="max-lg:hidden"
            rows={summary.data.actions.map((one) => ({
              key: one.action,
              label: actionWords(one.action),
              value: one.success + one.failure + one.denied,
            }))}
            onPick={pick.onAction}
          />
          <Most
            title="Busiest"
            className="max-lg:hidden"
            rows={summary.data.actors.map((one) => ({
              key: one.actor,
              label: one.actor,
              value: one.entries,
            }))}
            onPick={pick.onActor}
          />
        </>
      )}
    </section>
  );
}

function Days({ summary }: { summary: AuditSummary }) {
  const { days } = summary;
  const most = Math.max(1, ...days.map((day) => day.success + day.failure + day.denied));
  const { success, failure, denied } = summary.results;
  const width = 100 / days.length;
  return (
    <div>
      <p className="flex flex-wrap gap-x-4 text-xs text-muted tabular">
        <span>
          <span className="font-semibold text-text">{count(summary.total)}</span> entries
        </span>
        <Legend className="bg-accent" label={`${count(success)} succeeded`} />
        <Legend className="bg-warning" label={`${count(denied)} denied`} />
        <Legend className="bg-critical" label={`${count(failure)} failed`} />
      </p>
      <svg
        viewBox={`0 0 100 ${HEIGHT}`}
        preserveAspectRatio="none"
        className="mt-1.5 block h-16 w-full"
        role="img"
        aria-label={`Entries a day: ${plural(summary.total, "entry", "entries")} in ${days.length} days`}
      >
        {days.map((day, index) => {
          const scale = (value: number) => (value / most) * (HEIGHT - 1);
          const bars = [
            { key: "success", value: scale(day.success), className: "fill-accent" },
            { key: "denied", value: scale(day.denied), className: "fill-warning" },
            { key: "failure", value: scale(day.failure), className: "fill-critical" },
          ];
          let top = HEIGHT;
          return (
            <g key={day.day}>
              <title>
                {`${LABEL.format(Date.parse(day.day))}: ${day.success} succeeded, ${day.denied} denied, ${day.failure} failed`}
              </title>
              <rect
                x={index * width}
                y={0}
                width={width * 0.8}
                height={HEIGHT}
                className="fill-transparent"
              />
              {bars.map((bar) => {
                top -= bar.value;
                return (
                  <rect
                    key={bar.key}
                    x={index * width}
                    y={top}
                    width={width * 0.8}
                    height={bar.value}
                    className={bar.className}
                  />
                );
              })}
            </g>
          );
        })}
        <rect x={0} y={HEIGHT - 1} width={100} height={1} className="fill-line-strong" />
      </svg>
      <p className="mt-0.5 flex justify-between text-2xs text-faint">
        <span>{LABEL.format(Date.parse(summary.from))}</span>
        <span>today, UTC</span>
      </p>
    </div>
  );
}

function Legend({ className, label }: { className: string; label: string }) {
  return (
    <span className="inline-flex items-center gap-1.5">
      <span className={`size-2 rounded-sm ${className}`} aria-hidden />
      {label}
    </span>
  );
}

interface MostProps {
  title: string;
  rows: { key: string; label: string; value: number }[];
  onPick: (key: string) => void;
  className: string;
}

function Most({ title, rows, onPick, className }: MostProps) {
  const most = Math.max(1, rows[0]?.value ?? 1);
  return (
    <div className={className}>
      <h2 className="text-xs font-medium text-muted">{title}</h2>
      <ul className="mt-1 space-y-0.5">
        {rows.slice(0, NAMED).map((row) => (
          <li key={row.key}>
            <button
              type="button"
              onClick={() => onPick(row.key)}
              title={`Show only ${row.label}`}
              className="relative block w-full rounded-sm text-left text-xs hover:bg-surface-2"
            >
              <svg
                className="absolute inset-0 size-full"
                viewBox="0 0 100 1"
                preserveAspectRatio="none"
                aria-hidden
              >
                <rect width={(row.value / most) * 100} height={1} className="fill-accent-soft" />
              </svg>
              <span className="relative flex justify-between gap-2 px-1.5 py-0.5">
                <span className="truncate">{row.label}</span>
                <span className="text-muted tabular">{count(row.value)}</span>
              </span>
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}
