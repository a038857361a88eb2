// Which series are drawn together, and how.
import type { ChartSeries } from "@/components/charts/align";
import type { Threshold } from "@/components/charts/uplot-options";
import type { MetricSeries } from "@/lib/api/types";
import { humanize } from "@/lib/format/labels";

export interface ChartSpec {
  id: string;
  title: string;
  unit: string;
  series: readonly { name: string; label: string }[];
  max?: number;
  thresholds?: readonly Threshold[];
}

const USAGE: readonly Threshold[] = [{ value: 90, token: "--status-critical" }];

export const STANDARD: readonly ChartSpec[] = [
  {
    id: "cpu",
    title: "Processor",
    unit: "percent",
    max: 100,
    thresholds: USAGE,
    series: [{ name: "cpu_percent", label: "Used" }],
  },
  {
    id: "ram",
    title: "Memory",
    unit: "percent",
    max: 100,
    thresholds: USAGE,
    series: [{ name: "ram_percent", label: "Used" }],
  },
  {
    id: "net",
    title: "Network",
    unit: "bytes_per_s",
    series: [
      { name: "net_in_bytes_per_s", label: "In" },
      { name: "net_out_bytes_per_s", label: "Out" },
    ],
  },
  {
    id: "disk",
    title: "Fullest disk",
    unit: "percent",
    max: 100,
    thresholds: USAGE,
    series: [{ name: "disk_percent", label: "Used" }],
  },
  { id: "load", title: "Load", unit: "", series: [{ name: "load1", label: "1 min" }] },
  {
    id: "processes",
    title: "Processes",
    unit: "count",
    series: [{ name: "process_count", label: "Running" }],
  },
];

export const MORE: readonly ChartSpec[] = [
  {
    id: "ram-size",
    title: "Memory used",
    unit: "mb",
    series: [
      { name: "ram_used_mb", label: "Memory" },
      { name: "swap_used_mb", label: "Swap" },
    ],
  },
  {
    id: "disk-size",
    title: "Disk used",
    unit: "mb",
    series: [{ name: "disk_used_mb", label: "Used" }],
  },
];

export function namesOf(specs: readonly ChartSpec[]): string[] {
  return specs.flatMap((spec) => spec.series.map((one) => one.name));
}

export function seriesFor(
  spec: ChartSpec,
  all: readonly MetricSeries[],
): (ChartSeries & { label: string })[] {
  return spec.series.map(({ name, label }) => ({
    name,
    label,
    points: all.find((series) => series.name === name)?.points ?? [],
  }));
}

export const DETAILS = [
  { prefix: "cpu.", label: "Per core" },
  { prefix: "disk.", label: "Per disk" },
  { prefix: "net.", label: "Per interface" },
  { prefix: "custom.", label: "Custom" },
] as const;

/** `disk./home.used_percent` under `disk.` -> item `/home`, measure `used_percent`. */
export function splitDetail(name: string, prefix: string): { item: string; measure: string } {
  const rest = name.startsWith(prefix) ? name.slice(prefix.length) : name;
  const dot = rest.lastIndexOf(".");
  return dot <= 0
    ? { item: rest, measure: "" }
    : { item: rest.slice(0, dot), measure: rest.slice(dot + 1) };
}

const MEASURE: Record<string, string> = {
  percent: "Used",
  rx_bytes: "In",
  tx_bytes: "Out",
};

const PER_CHART_MAX = 6;

/** Charts of the detail series: one for each item, with its measures of one unit together. */
export function detailCharts(all: readonly MetricSeries[], prefix: string): ChartSpec[] {
  const groups = new Map<string, ChartSpec & { series: { name: string; label: string }[] }>();
  for (const series of all) {
    const { item, measure } = splitDetail(series.name, prefix);
    const key = `${item}\u0000${series.unit}`;
    let group = groups.get(key);
    if (group === undefined) {
      group = { id: key, title: titleOf(item, prefix), unit: series.unit, series: [] };
      if (series.unit === "percent") group.max = 100;
      groups.set(key, group);
    }
    if (group.series.length < PER_CHART_MAX) {
      group.series.push({ name: series.name, label: measureLabel(measure) });
    }
  }
  return [...groups.values()];
}

function measureLabel(measure: string): string {
  return measure === "" ? "Value" : (MEASURE[measure] ?? humanize(measure));
}

function titleOf(item: string, prefix: string): string {
  return prefix === "cpu." && /^\d+$/.test(item) ? `Core ${item}` : item;
}

/** Seconds between detail values that the agent sends by itself. */
const DETAIL_INTERVAL_S = 300;

/**
 * How far apart points of a series are at most: the step that was asked for, but never less than
 * the device's own rhythm. Without it each minute of a fine step would look like a gap.
 */
export function spacingS(stepS: number, details: string | undefined, heartbeatS: number): number {
  const own = details === undefined || details === "custom." ? heartbeatS : DETAIL_INTERVAL_S;
  return Math.max(stepS, own);
}
