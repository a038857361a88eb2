// The regions in sum, and the engines that the roles stand on.
import { CircleCheck, CircleX, TriangleAlert } from "lucide-react";
import { Panel } from "@/components/ui/panel";
import type { SystemStatus } from "@/lib/api/types";
import { cn } from "@/lib/cn";
import { humanize } from "@/lib/format/labels";
import { plural } from "@/lib/format/numbers";
import { duration } from "@/lib/format/time";

type Region = SystemStatus["regions"][number];
type Engine = SystemStatus["engines"][number];

type Role = SystemStatus["roles"][number];

/** Seconds of lag that are worth a warning: a flush and a slow insert are within them. */
const SLOW_S = 30;

export function Regions({
  regions,
  engines,
  roles,
}: {
  regions: Region[];
  engines: Engine[];
  roles: Role[];
}) {
  const wide = regions.length > 2;
  return (
    <section
      aria-label="Regions"
      className={cn("grid gap-4 md:grid-cols-2", wide && "xl:grid-cols-3")}
    >
      {regions.map((region) => (
        <RegionCard
          key={region.name}
          region={region}
          engines={engines.filter((engine) => engine.region === region.name)}
          roles={roles.filter((role) => role.region === region.name)}
        />
      ))}
    </section>
  );
}

function RegionCard({
  region,
  engines,
  roles,
}: {
  region: Region;
  engines: Engine[];
  roles: Role[];
}) {
  const slow = region.lag_seconds >= SLOW_S;
  const cut = engines.some((engine) => !engine.reachable);
  const left = region.foreign.length > 0;
  const trouble = region.missing || region.roles_ready < region.roles || slow || cut || left;
  const Icon = region.missing ? CircleX : trouble ? TriangleAlert : CircleCheck;
  return (
    <div
      className={cn(
        "flex flex-col gap-3 rounded-lg border bg-surface px-4 py-3",
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
      <dl className="grid grid-cols-[6rem_1fr] gap-x-3 gap-y-1.5 text-sm">
        <Row label="Nodes" bad={region.roles_ready < region.roles}>
          {roleCounts(roles)}
        </Row>
        <Row label="Bus lag" bad={false}>
          {waiting(region)}
        </Row>
        <Row label="Metrics lag" bad={slow}>
          {region.missing
            ? "Not known"
            : region.lag_seconds < 1
              ? "Below a second"
              : `${duration(region.lag_seconds)} behind`}
        </Row>
        {region.foreign.map((held) => (
          <Row key={held.home} label={`For ${held.home}`} bad>
            {`${plural(held.entries, "entry", "entries")}: nobody has taken any for ${duration(held.waiting_seconds)}`}
          </Row>
        ))}
        {engines.map((engine) => (
          <Row
            key={engine.engine}
            label={ENGINE_NAMES[engine.engine] ?? humanize(engine.engine)}
            bad={!engine.reachable}
          >
            {engine.reachable ? "Answers" : `Does not answer: ${engine.error ?? "not known why"}`}
          </Row>
        ))}
      </dl>
      {engines.some((engine) => engine.engine === "metrics" && !engine.reachable) && (
        <p className="border-t border-line pt-2 text-xs text-muted">
          Graphs and events of its devices are missing until it answers. Agents and the bus keep
          what they send.
        </p>
      )}
    </div>
  );
}

function Row({ label, bad, children }: { label: string; bad: boolean; children: string }) {
  return (
    <>
      <dt className="text-muted">{label}</dt>
      <dd className={cn("min-w-0 break-words tabular", bad && "text-warning")}>{children}</dd>
    </>
  );
}

function waiting(region: Region): string {
  if (region.missing && region.lag_entries === 0) return "Not known";
  const lanes = plural(region.lanes, "lane");
  return region.lag_entries > 0
    ? `${plural(region.lag_entries, "entry", "entries")} in ${lanes}`
    : `Nothing waits in ${lanes}`;
}

/** `2 relays, 1 of 2 collectors`: what is there, and of how many where not all are. */
export function roleCounts(roles: readonly Pick<Role, "role" | "ready">[]): string {
  if (roles.length === 0) return "None heard of";
  const kinds = new Map<string, { ready: number; all: number }>();
  for (const { role, ready } of roles) {
    const held = kinds.get(role) ?? { ready: 0, all: 0 };
    kinds.set(role, { ready: held.ready + (ready ? 1 : 0), all: held.all + 1 });
  }
  return [...kinds]
    .sort(([a], [b]) => a.localeCompare(b))
    .map(([role, { ready, all }]) => {
      const words = plural(all, NODE[role] ?? humanize(role).toLowerCase());
      return ready === all ? words : `${ready} of ${words}`;
    })
    .join(", ");
}

const NODE: Record<string, string> = {
  "control-plane": "control-plane node",
};

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
