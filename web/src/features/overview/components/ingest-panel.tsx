// How much arrives, and how that was over the last hour.
import { useMemo } from "react";
import { ChartSkeleton, TimeChart } from "@/components/charts/time-chart";
import { Panel, Skeleton } from "@/components/ui/panel";
import type { Overview } from "@/lib/api/types";
import { perSecond } from "@/lib/format/numbers";
import { useNow } from "@/lib/now";

const SPAN_MS = 3_600_000;
const GRAPH_PX = 150;

export function IngestPanel({ ingest }: { ingest: Overview["ingest"] | undefined }) {
  const now = useNow();
  const series = useMemo(
    () => [{ name: "heartbeats", label: "Heartbeats", points: ingest?.history ?? [] }],
    [ingest?.history],
  );
  const times = ingest?.history ?? [];
  const first = times[0]?.[0] ?? now - SPAN_MS;
  const last = times.at(-1)?.[0] ?? now;
  const step = times.length > 1 ? (last - first) / (times.length - 1) / 1000 : 60;
  return (
    <Panel
      className="lg:col-span-3"
      title="Arriving now"
      actions={
        <span className="text-xs text-muted tabular">
          {ingest === undefined ? (
            <Skeleton className="h-3.5 w-32" />
          ) : (
            `${perSecond(ingest.samples_per_s)} samples`
          )}
        </span>
      }
    >
      {ingest === undefined ? (
        <ChartSkeleton height={GRAPH_PX} />
      ) : (
        <TimeChart
          title="Heartbeats"
          unit="per_s"
          series={series}
          stepS={Math.max(step, 1)}
          from={Math.min(first, last - 60_000)}
          to={last}
          height={GRAPH_PX}
        />
      )}
    </Panel>
  );
}
