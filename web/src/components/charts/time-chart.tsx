// One graph over time with its title, its legend and the value under the crosshair.
import "uplot/dist/uPlot.min.css";
import { useEffect, useMemo, useRef, useState } from "react";
import uPlot from "uplot";
import { align, gapAfterMs, type ChartSeries } from "@/components/charts/align";
import { chartOptions, colorOf, type Threshold } from "@/components/charts/uplot-options";
import { withUnit } from "@/lib/format/numbers";
import { graphTime } from "@/lib/format/time";
import { useStore } from "@/lib/store";
import { theme } from "@/lib/theme";

export interface TimeChartProps {
  title: string;
  unit: string;
  series: readonly (ChartSeries & { label: string })[];
  /** Seconds between points, which decides what a gap is. */
  stepS: number;
  /** What the axis shows, milliseconds since 1970. */
  from: number;
  to: number;
  band?: boolean;
  max?: number;
  thresholds?: readonly Threshold[];
  syncKey?: string;
  onZoom?: (from: number, to: number) => void;
  height?: number;
}

const NO_THRESHOLDS: readonly Threshold[] = [];

export function TimeChart(props: TimeChartProps) {
  const { series, unit, stepS, from, to, band = false, max, syncKey, height = 150 } = props;
  const thresholds = props.thresholds ?? NO_THRESHOLDS;
  const holder = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const [index, setIndex] = useState<number | null>(null);
  const look = useStore(theme);
  const aligned = useMemo(() => align(series, gapAfterMs(stepS), band), [series, stepS, band]);
  const latest = useRef({ aligned, from, to });
  useEffect(() => {
    latest.current = { aligned, from, to };
  });
  const zoom = useRef(props.onZoom);
  useEffect(() => {
    zoom.current = props.onZoom;
  });
  const zoomable = props.onZoom !== undefined;
  const labels = series.map((one) => one.label).join("\u0000");

  useEffect(() => {
    const element = holder.current;
    if (element === null) return;
    const made = new uPlot(
      chartOptions({
        unit,
        labels: labels === "" ? [] : labels.split("\u0000"),
        band,
        thresholds,
        width: element.clientWidth,
        height,
        syncKey,
        max,
        onIndex: setIndex,
        onZoom: zoomable ? (a, b) => zoom.current?.(a, b) : undefined,
      }),
      latest.current.aligned.columns,
      element,
    );
    plot.current = made;
    show(made, latest.current);
    const observer = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height }));
    observer.observe(element);
    return () => {
      observer.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [unit, labels, band, thresholds, height, syncKey, max, zoomable, look]);

  useEffect(() => {
    if (plot.current !== null) show(plot.current, { aligned, from, to });
  }, [aligned, from, to]);

  const perSeries = band ? 3 : 1;
  const times = aligned.columns[0];
  const at = index === null ? null : (times[index] ?? null);
  const value = (s: number, field = 0): number | null | undefined => {
    const column = aligned.columns[1 + s * perSeries + field];
    return index === null ? lastNumber(column) : column?.[index];
  };
  const empty = series.every((one) => one.points.length === 0);

  return (
    <figure
      className="min-w-0"
      aria-label={`${props.title}: ${series.map((one, s) => `${one.label} ${withUnit(value(s), unit)}`).join(", ")}`}
    >
      {/* One line whatever is under the crosshair: a caption that grows would move the graph. */}
      <figcaption className="flex h-5 items-center justify-between gap-x-3 px-1 whitespace-nowrap">
        <span className="shrink-0 text-sm font-medium">{props.title}</span>
        <span className="flex min-w-0 items-center justify-end gap-x-3 overflow-hidden text-xs leading-5 tabular">
          {at !== null && (
            <span className="truncate text-faint">{graphTime(at * 1000, stepS)}</span>
          )}
          {series.map((one, s) => (
            <span key={one.name} className="inline-flex shrink-0 items-center gap-1.5">
              <span
                className="h-0.5 w-2.5 rounded"
                style={{ background: `var(${colorOf(s)})` }}
                aria-hidden
              />
              {series.length > 1 && <span className="text-muted">{one.label}</span>}
              <span className="font-medium">{withUnit(value(s), unit)}</span>
              {band && series.length === 1 && index !== null && value(s, 1) != null && (
                <span className="text-faint max-sm:hidden">
                  {withUnit(value(s, 1), unit)} to {withUnit(value(s, 2), unit)}
                </span>
              )}
            </span>
          ))}
        </span>
      </figcaption>
      <div className="relative" style={{ height }}>
        <div ref={holder} className="absolute inset-0 overflow-hidden" />
        {empty && (
          <p className="absolute inset-0 flex items-center justify-center text-sm text-faint">
            No data in this range
          </p>
        )}
      </div>
    </figure>
  );
}

function lastNumber(column: readonly (number | null | undefined)[] | undefined): number | null {
  if (column === undefined) return null;
  for (let i = column.length - 1; i >= 0; i -= 1) {
    const value = column[i];
    if (typeof value === "number") return value;
  }
  return null;
}

function show(plot: uPlot, state: { aligned: ReturnType<typeof align>; from: number; to: number }) {
  plot.batch(() => {
    plot.setData(state.aligned.columns, false);
    plot.setScale("x", { min: state.from / 1000, max: state.to / 1000 });
  });
}

export function ChartSkeleton({ height = 150 }: { height?: number }) {
  return (
    <div aria-hidden>
      <div className="flex h-5 items-center justify-between px-1">
        <div className="h-3.5 w-20 skeleton" />
        <div className="h-3.5 w-14 skeleton" />
      </div>
      <div className="flex items-end gap-1 px-1 pb-7" style={{ height }}>
        <div className="h-2/3 w-full skeleton opacity-60" />
      </div>
    </div>
  );
}
