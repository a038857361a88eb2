// Graphs over an hour to ninety days: drag to zoom, one crosshair for all.
import { useQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { TriangleAlert, ZoomOut } from "lucide-react";
import { useCallback } from "react";
import { ChartSkeleton, TimeChart } from "@/components/charts/time-chart";
import { Button } from "@/components/ui/button";
import { Panel } from "@/components/ui/panel";
import { EmptyState, ProblemNote } from "@/components/ui/problem";
import {
  DETAILS,
  detailCharts,
  MORE,
  namesOf,
  seriesFor,
  spacingS,
  STANDARD,
  type ChartSpec,
} from "@/features/device/charts";
import { fetchMetrics } from "@/features/device/queries";
import {
  missingRegions,
  RANGE_LABEL,
  refreshMs,
  stretchOf,
  type Stretch,
} from "@/features/device/ranges";
import type { Device, Metrics } from "@/lib/api/types";
import { cn } from "@/lib/cn";
import { duration, exact, millis } from "@/lib/format/time";
import { RANGES, type DeviceSearch } from "@/lib/url";

const SPECS = [...STANDARD, ...MORE];
const NAMES = namesOf(SPECS);
const GRAPH_PX = 170;

function useMetrics(id: string, stretch: Stretch, details: string | undefined) {
  return useQuery({
    queryKey: ["device", id, "metrics", stretch, details ?? ""],
    queryFn: ({ signal }) => {
      const to = stretch.kind === "fixed" ? stretch.to : Date.now();
      const from = stretch.kind === "fixed" ? stretch.from : to - stretch.ms;
      return fetchMetrics(
        id,
        details === undefined ? { from, to, series: NAMES } : { from, to, details },
        signal,
      );
    },
    refetchInterval: refreshMs(stretch),
    placeholderData: (previous, query) =>
      query?.queryKey[4] === (details ?? "") ? previous : undefined,
  });
}

export function MetricsTab({ device, search }: { device: Device; search: DeviceSearch }) {
  const navigate = useNavigate();
  const stretch = stretchOf(search);
  const metrics = useMetrics(device.id, stretch, search.details);
  const change = useCallback(
    (next: Partial<DeviceSearch>) =>
      void navigate({
        to: "/devices/$deviceId",
        params: { deviceId: device.id },
        search: (now) => ({ ...now, ...next }),
      }),
    [navigate, device.id],
  );
  const onZoom = useCallback((from: number, to: number) => change({ from, to }), [change]);
  const { data } = metrics;
  const specs =
    search.details === undefined
      ? SPECS
      : data === undefined
        ? []
        : detailCharts(data.series, search.details);

  return (
    <div className="flex flex-col gap-4">
      <div className="flex flex-wrap items-center gap-x-4 gap-y-2">
        <Segments
          label="Range"
          options={RANGES.map((range) => ({ value: range, label: RANGE_LABEL[range] }))}
          value={stretch.kind === "last" ? stretch.range : null}
          onChange={(range) => change({ range, from: undefined, to: undefined })}
        />
        <Segments
          label="Series"
          options={[
            { value: "", label: "Whole machine" },
            ...DETAILS.map(({ prefix, label }) => ({ value: prefix, label })),
          ]}
          value={search.details ?? ""}
          onChange={(details) => change({ details: details === "" ? undefined : details })}
        />
        {stretch.kind === "fixed" && (
          <Button size="sm" onClick={() => change({ from: undefined, to: undefined })}>
            <ZoomOut size={13} aria-hidden /> Back to the range
          </Button>
        )}
        <p className="text-xs text-faint">
          {stretch.kind === "fixed"
            ? `${exact(stretch.from)} to ${exact(stretch.to)}`
            : data === undefined
              ? "Drag in a graph to zoom"
              : describe(data, device)}
        </p>
      </div>
      {metrics.isError && (
        <ProblemNote
          error={metrics.error}
          title="The metrics could not be loaded"
          onRetry={() => void metrics.refetch()}
        />
      )}
      {data !== undefined && data.missing_regions.length > 0 && (
        <p
          role="status"
          className="flex items-center gap-2 rounded-lg border border-warning/35 bg-warning-soft p-3 text-sm"
        >
          <TriangleAlert size={16} className="shrink-0 text-warning" aria-hidden />
          {missingRegions(data.missing_regions)}
        </p>
      )}
      {data !== undefined && specs.length === 0 ? (
        <Panel>
          <EmptyState
            icon={<ZoomOut size={18} aria-hidden />}
            title="Nothing of this kind in this range"
          >
            {search.details === "custom."
              ? "Custom metrics are sent from the machine with: breeze-agent metric NAME VALUE"
              : "Details are sent every few minutes. Choose a longer range, or wait for the first ones."}
          </EmptyState>
        </Panel>
      ) : (
        <div className="grid gap-4 lg:grid-cols-2">
          {data === undefined
            ? SPECS.map((spec) => (
                <Panel key={spec.id} className="[&>div]:p-3">
                  <ChartSkeleton height={GRAPH_PX} />
                </Panel>
              ))
            : specs.map((spec) => (
                <Chart
                  key={spec.id}
                  spec={spec}
                  data={data}
                  stepS={spacingS(data.step_s, search.details, device.heartbeat_interval_s)}
                  rolled={isRolled(data, device)}
                  onZoom={onZoom}
                />
              ))}
        </div>
      )}
    </div>
  );
}

function isRolled(data: Metrics, device: Device): boolean {
  return data.resolution !== "raw" || data.step_s > device.heartbeat_interval_s;
}

function describe(data: Metrics, device: Device): string {
  const each = isRolled(data, device)
    ? `a point each ${duration(data.step_s)}, with the lowest and highest`
    : "each report as it came";
  return `Shown: ${each}. Drag in a graph to zoom.${data.truncated ? " More series exist than are shown." : ""}`;
}

function Chart({
  spec,
  data,
  stepS,
  rolled,
  onZoom,
}: {
  spec: ChartSpec;
  data: Metrics;
  stepS: number;
  /** Points stand for several reports, with the lowest and highest of them. */
  rolled: boolean;
  onZoom: (from: number, to: number) => void;
}) {
  return (
    <Panel className="[&>div]:p-3">
      <TimeChart
        title={spec.title}
        unit={
          spec.unit === ""
            ? (data.series.find((one) => one.name === spec.series[0]?.name)?.unit ?? "")
            : spec.unit
        }
        series={seriesFor(spec, data.series)}
        stepS={stepS}
        from={millis(data.from) ?? 0}
        to={millis(data.to) ?? 0}
        band={rolled}
        syncKey="device-metrics"
        onZoom={onZoom}
        height={GRAPH_PX}
        {...(spec.max === undefined ? {} : { max: spec.max })}
        {...(spec.thresholds === undefined ? {} : { thresholds: spec.thresholds })}
      />
    </Panel>
  );
}

function Segments<T extends string>({
  label,
  options,
  value,
  onChange,
}: {
  label: string;
  options: readonly { value: T; label: string }[];
  value: T | null;
  onChange: (value: T) => void;
}) {
  return (
    <div
      role="group"
      aria-label={label}
      className="flex max-w-full overflow-x-auto rounded-md border border-line bg-surface p-0.5"
    >
      {options.map((option) => (
        <button
          key={option.value}
          type="button"
          aria-pressed={value === option.value}
          onClick={() => onChange(option.value)}
          className={cn(
            "h-6 shrink-0 rounded px-2.5 text-xs whitespace-nowrap",
            value === option.value
              ? "bg-accent-soft font-medium text-accent-ink"
              : "text-muted hover:text-text",
          )}
        >
          {option.label}
        </button>
      ))}
    </div>
  );
}
