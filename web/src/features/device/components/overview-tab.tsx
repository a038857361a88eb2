// What the device does right now.
import { TimeChart, ChartSkeleton } from "@/components/charts/time-chart";
import { HealthBadge, StatusBadge } from "@/components/device/status";
import { Facts, Panel } from "@/components/ui/panel";
import { ProblemNote } from "@/components/ui/problem";
import { RelativeTime } from "@/components/ui/time";
import { namesOf, seriesFor, STANDARD } from "@/features/device/charts";
import { useLiveSamples } from "@/features/device/live-samples";
import type { Device } from "@/lib/api/types";
import { systemName } from "@/lib/format/labels";
import { gib, plural } from "@/lib/format/numbers";
import { duration, relative } from "@/lib/format/time";

const NAMES = namesOf(STANDARD);
const GRAPH_PX = 120;

export function OverviewTab({ device }: { device: Device }) {
  const live = useLiveSamples(device.id, NAMES);
  const stale = device.status !== "online";
  return (
    <div className="flex flex-col gap-4">
      {stale && (
        <p className="rounded-lg border border-line bg-surface-2 px-4 py-2.5 text-sm">
          {device.status === "pending" ? (
            "This device waits for approval. Until then it sends nothing."
          ) : device.last_seen_at == null ? (
            "This device has not been heard of yet."
          ) : (
            <>
              Not heard of since <RelativeTime at={device.last_seen_at} />. What you see below is
              from then.
            </>
          )}
        </p>
      )}
      {live.error !== null && (
        <ProblemNote
          error={live.error}
          title="The graphs could not be loaded"
          onRetry={live.retry}
        />
      )}
      <div className="grid gap-4 md:grid-cols-2 xl:grid-cols-3">
        {STANDARD.map((spec) => (
          <Panel key={spec.id} className="[&>div]:p-3">
            {live.pending ? (
              <ChartSkeleton height={GRAPH_PX} />
            ) : (
              <TimeChart
                title={spec.title}
                unit={spec.unit}
                series={seriesFor(spec, live.series)}
                stepS={device.heartbeat_interval_s}
                from={live.from}
                to={live.to}
                syncKey="device-live"
                height={GRAPH_PX}
                {...(spec.max === undefined ? {} : { max: spec.max })}
                {...(spec.thresholds === undefined ? {} : { thresholds: spec.thresholds })}
              />
            )}
          </Panel>
        ))}
      </div>
      <div className="grid gap-4 lg:grid-cols-2">
        <Panel title="State">
          <Facts
            items={[
              ["Status", <StatusBadge key="status" device={device} />],
              ["Since", <RelativeTime key="since" at={device.status_since} />],
              ["Health", <HealthBadge key="health" health={device.health} />],
              ["Restart", device.pending_reboot ? "Waits for a restart" : "Not needed"],
              ["Uptime", duration(device.uptime_s)],
              ["Signed in", device.last_user ?? "–"],
              ["Newest sample", live.last === null ? "–" : relative(live.last, live.to)],
            ]}
          />
        </Panel>
        <Panel title="Machine">
          <Facts
            items={[
              [
                "System",
                `${systemName(device)}${device.os_build === "" ? "" : ` (${device.os_build})`}`,
              ],
              ["Architecture", device.architecture],
              ["Processor", device.cpu_model ?? "–"],
              ["Threads", device.cpu_threads == null ? "–" : plural(device.cpu_threads, "thread")],
              ["Memory", gib(device.ram_gb)],
              [
                "Made by",
                [device.manufacturer, device.model]
                  .filter((part) => part != null && part !== "")
                  .join(" ") || "–",
              ],
              ["Agent", device.agent_version],
            ]}
          />
        </Panel>
      </div>
    </div>
  );
}
