// The regions in sum, and the engines that the roles stand on.
import { CircleCheck, CircleX, TriangleAlert } from "lucide-react";
import { Panel } from "@/components/ui/panel";
import type { SystemStatus } from "@/lib/api/types";
import { cn } from "@/lib/cn";
import { humanize } from "@/lib/format/labels";
import { count } from "@/lib/format/numbers";
import { duration } from "@/lib/format/time";

type Region = SystemStatus["regions"][number];
type Engine = SystemStatus["engines"][number];

/** Seconds of lag that are worth a warning: a flush and a slow insert are within them. */
const SLOW_S = 30;

export function Regions({ regions }: { regions: Region[] }) {
  return (
    <section aria-label="Regions" className="grid gap-4 sm:grid-cols-2 xl:grid-cols-4">
      {regions.map((region) => (
        <RegionCard key={region.name} region={region} />
      ))}
    </section>
  );
}

function RegionCard({ region }: { region: Region }) {
  const slow = region.lag_seconds >= SLOW_S;
  const trouble = region.missing || region.roles_ready < region.roles || slow;
  const Icon = region.missing ? CircleX : trouble ? TriangleAlert : CircleCheck;
  return (
    <div
      className={cn(
        "rounded-lg border bg-surface px-4 py-3",
        region.missing ? "border-critical/50" : trouble ? "border-warning/50" : "border-line",
      )}
    >
      <div className="flex items-center justify-between gap-2">
        <h2 className="truncate text-sm font-semibold">{region.name}</h2>
        <span className="inline-flex shrink-0 items-center gap-1.5 text-xs">
          <Icon
            size={14}
            className={region.missing ? "text-critical" : trouble ? "text-warning" : "text-online"}
            aria-hidden
          />
          {region.missing ? "Not heard of" : trouble ? "Needs a look" : "Well"}
        </span>
      </div>
      <p className="mt-2 text-sm tabular">
        {region.roles_ready} of {region.roles} roles ready
        {region.roles_gone > 0 && <span className="text-warning"> · {region.roles_gone} gone</span>}
      </p>
      <p className="mt-1 text-xs text-muted tabular">
        {region.lanes} lanes,{" "}
        {region.lag_entries > 0
          ? `${count(region.lag_entries)} entries wait`
          : region.missing
            ? "what waits is not known"
            : "nothing waits"}
        {region.lag_seconds >= 1 && (
          <span className={slow ? "text-warning" : undefined}>
            , {duration(region.lag_seconds)} behind
          </span>
        )}
      </p>
    </div>
  );
}

const ENGINE_NAMES: Record<string, string> = {
  bus: "Bus",
  state: "State",
  metrics: "Metrics",
};

export function Engines({ engines }: { engines: Engine[] }) {
  return (
    <Panel title="Engines">
      <ul className="flex flex-col gap-2 text-sm">
        {engines.map((engine) => {
          const Icon = engine.reachable ? CircleCheck : CircleX;
          return (
            <li key={`${engine.engine}/${engine.region}`} className="flex gap-2">
              <Icon
                size={14}
                className={cn(
                  "mt-0.5 shrink-0",
                  engine.reachable ? "text-online" : "text-critical",
                )}
                aria-hidden
              />
              <span className="min-w-0">
                {ENGINE_NAMES[engine.engine] ?? humanize(engine.engine)}{" "}
                <span className="text-muted">of {engine.region}</span>
                {engine.reachable ? (
                  <span className="sr-only"> answers</span>
                ) : (
                  <span className="block text-xs break-words text-muted">
                    does not answer: {engine.error}
                  </span>
                )}
              </span>
            </li>
          );
        })}
      </ul>
    </Panel>
  );
}
