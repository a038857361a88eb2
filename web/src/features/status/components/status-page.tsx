// Is the system itself well: roles, queues, storage, and what was dropped.
import { CircleCheck, TriangleAlert } from "lucide-react";
import type { ReactNode } from "react";
import { Facts, FactsSkeleton, Page, PageHeader, Panel } from "@/components/ui/panel";
import { ProblemNote } from "@/components/ui/problem";
import { RelativeTime } from "@/components/ui/time";
import { useSystemStatus } from "@/features/status/queries";
import { Engines, Regions } from "@/features/status/components/regions";
import { RoleCard } from "@/features/status/components/role-card";
import { byTrouble, RoleList } from "@/features/status/components/role-list";
import type { SystemStatus } from "@/lib/api/types";
import { cn } from "@/lib/cn";
import { humanize } from "@/lib/format/labels";
import { bytes, count } from "@/lib/format/numbers";

/** More roles than this are a list. */
const MAX_CARDS = 6;
/** Names in the verdict. */
const MAX_NAMED = 5;

export function StatusPage(): ReactNode {
  const { data, error, isError, refetch } = useSystemStatus();
  if (isError && data === undefined) {
    return (
      <Page>
        <PageHeader title="System status" />
        <ProblemNote
          error={error}
          title="The system status could not be loaded"
          onRetry={() => void refetch()}
        />
      </Page>
    );
  }
  return (
    <Page>
      <PageHeader
        title="System status"
        subtitle={
          data === undefined ? (
            " "
          ) : (
            <>
              Version {data.version}, running since <RelativeTime at={data.started_at} />
            </>
          )
        }
      />
      {data === undefined ? (
        <Panel>
          <FactsSkeleton rows={8} />
        </Panel>
      ) : (
        <>
          <Verdict status={data} />
          {data.regions.length > 1 && (
            <Regions regions={data.regions} engines={data.engines} roles={data.roles} />
          )}
          {data.roles.length > MAX_CARDS ? (
            <RoleList roles={data.roles} />
          ) : (
            <section aria-label="Roles" className="grid gap-4 md:grid-cols-2 xl:grid-cols-3">
              {data.roles.map((role) => (
                <RoleCard key={`${role.region}/${role.role}/${role.id}`} role={role} />
              ))}
            </section>
          )}
          <div className="grid gap-4 lg:grid-cols-[2fr_1fr]">
            <Lanes lanes={data.lanes} />
            <div className="flex flex-col gap-4">
              {data.regions.length <= 1 && <Engines engines={data.engines} />}
              <Storage storage={data.storage} />
              <Drops drops={data.drops} />
            </div>
          </div>
        </>
      )}
    </Page>
  );
}

function Verdict({ status }: { status: SystemStatus }) {
  const trouble = [
    ...status.regions.filter((region) => region.missing).map((region) => `region ${region.name}`),
    ...status.engines
      .filter((engine) => !engine.reachable)
      .map((engine) => `${engine.engine} of ${engine.region}`),
    ...byTrouble(status.roles.filter((role) => !role.ready)).map(
      (role) => `${role.role} ${role.id}${role.gone ? " (gone)" : ""}`,
    ),
  ];
  const well = status.ready && trouble.length === 0;
  const rest = trouble.length - MAX_NAMED;
  const Icon = well ? CircleCheck : TriangleAlert;
  return (
    <div
      role="status"
      className={cn(
        "flex items-center gap-3 rounded-lg border px-4 py-3",
        well ? "border-online/30 bg-online-soft" : "border-warning/40 bg-warning-soft",
      )}
    >
      <Icon
        size={18}
        className={cn("shrink-0", well ? "text-online" : "text-warning")}
        aria-hidden
      />
      <p className="text-sm font-medium">
        {well
          ? "Everything works"
          : trouble.length > 0
            ? `Not ready: ${trouble.slice(0, MAX_NAMED).join(", ")}${rest > 0 ? ` and ${rest} more` : ""}`
            : "The system is not ready"}
      </p>
    </div>
  );
}

function Lanes({ lanes }: { lanes: SystemStatus["lanes"] }) {
  return (
    <Panel title="Lanes" flush>
      <div className="overflow-x-auto">
        <table className="w-full min-w-[560px] text-sm">
          <thead>
            <tr className="border-b border-line text-xs text-muted">
              <th scope="col" className="px-4 py-2 text-left font-medium">
                Lane
              </th>
              <th scope="col" className="px-4 py-2 text-left font-medium">
                Collector
              </th>
              {["Oldest", "Newest", "Kept", "Waiting"].map((head) => (
                <th key={head} scope="col" className="px-4 py-2 text-right font-medium">
                  {head}
                </th>
              ))}
            </tr>
          </thead>
          <tbody className="tabular">
            {lanes.map((lane) => (
              <tr
                key={`${lane.region}/${lane.lane}`}
                className="h-9 border-b border-line last:border-0"
              >
                <td className="px-4">
                  <span className="font-mono text-xs">
                    {lane.region}/{lane.lane}
                  </span>
                </td>
                <td className="px-4">
                  {lane.owner === null ? (
                    <span className="text-warning">Nobody</span>
                  ) : (
                    <span className="font-mono text-xs">{lane.owner}</span>
                  )}
                </td>
                <td className="px-4 text-right text-muted">{count(lane.first)}</td>
                <td className="px-4 text-right">{count(lane.last)}</td>
                <td className="px-4 text-right">{bytes(lane.bytes)}</td>
                <td className="px-4 text-right">
                  {lane.lag_entries === 0 ? (
                    <span className="text-muted">Nothing</span>
                  ) : (
                    count(lane.lag_entries)
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
        {lanes.length === 0 && (
          <p className="px-4 pb-4 text-sm text-muted">No lane has reported yet.</p>
        )}
      </div>
    </Panel>
  );
}

function Storage({ storage }: { storage: SystemStatus["storage"] }) {
  const rows = storage.metrics_rows;
  return (
    <Panel title="Storage">
      <Facts
        items={[
          ["Used", bytes(storage.data_bytes)],
          ["Free", bytes(storage.free_bytes)],
          ["Metrics", bytes(storage.metrics_bytes)],
          [
            "Rows",
            rows > 0 ? `${count(rows)}, ${(storage.metrics_bytes / rows).toFixed(1)} B each` : "0",
          ],
        ]}
      />
    </Panel>
  );
}

function Drops({ drops }: { drops: SystemStatus["drops"] }) {
  return (
    <Panel title="Dropped since the start">
      {drops.length === 0 ? (
        <p className="text-sm text-muted">Nothing.</p>
      ) : (
        <Facts
          items={drops.map((drop): [string, ReactNode] => [
            humanize(drop.name),
            <span key="n" className="tabular">
              {count(drop.count)}
            </span>,
          ])}
        />
      )}
    </Panel>
  );
}
