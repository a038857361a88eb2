// How a graph looks: axes, lines, bands, thresholds, from the tokens of the theme.
import type uPlot from "uplot";
import { withUnit } from "@/lib/format/numbers";

export interface Threshold {
  value: number;
  token: "--status-warning" | "--status-critical";
}

export interface ChartLook {
  unit: string;
  labels: readonly string[];
  band: boolean;
  thresholds: readonly Threshold[];
  width: number;
  height: number;
  syncKey: string | undefined;
  /** The top of the axis, where the unit has one. */
  max: number | undefined;
  onIndex: (index: number | null) => void;
  onZoom: ((from: number, to: number) => void) | undefined;
}

const DAY_S = 86_400;
// Bytes are binary, and so are the steps between their labels.
const BINARY_STEPS = Array.from({ length: 50 }, (_, power) => 2 ** power);
const BINARY_UNITS = new Set(["bytes", "bytes_per_s", "bytes_per_second", "mb", "MiB"]);
const PALETTE = 6;

export function token(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export function colorOf(index: number): string {
  return `--chart-${(index % PALETTE) + 1}`;
}

const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const minute = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const second = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});

/** Labels of the time axis: days, hours or seconds as the distance between them asks. */
export function timeLabels(splits: readonly number[], step: number): string[] {
  return splits.map((at) => {
    const time = at * 1000;
    const date = new Date(time);
    if (step >= DAY_S || (date.getHours() === 0 && date.getMinutes() === 0 && step >= 3600))
      return day.format(time);
    return step >= 60 ? minute.format(time) : second.format(time);
  });
}

function alpha(color: string, percent: number): string {
  return `color-mix(in srgb, ${color} ${percent}%, transparent)`;
}

function thresholdLines(u: uPlot, thresholds: readonly Threshold[]) {
  const { ctx, bbox } = u;
  for (const { value, token: name } of thresholds) {
    const y = Math.round(u.valToPos(value, "y", true));
    if (y < bbox.top || y > bbox.top + bbox.height) continue;
    ctx.save();
    ctx.strokeStyle = token(name);
    ctx.globalAlpha = 0.6;
    ctx.setLineDash([4, 4]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.restore();
  }
}

export function chartOptions(look: ChartLook): uPlot.Options {
  const axis = {
    stroke: token("--text-faint"),
    font: '11px "Inter", sans-serif',
    grid: { stroke: token("--chart-grid"), width: 1 },
    ticks: { show: false },
  };
  const perSeries = look.band ? 3 : 1;
  const series: uPlot.Series[] = [{}];
  const bands: uPlot.Band[] = [];
  look.labels.forEach((label, i) => {
    const color = token(colorOf(i));
    const single = look.labels.length === 1 && !look.band;
    series.push({
      label,
      stroke: color,
      width: 1.5,
      points: { show: false },
      ...(single ? { fill: alpha(color, 12) } : {}),
    });
    if (look.band) {
      series.push({
        label: `${label} min`,
        stroke: "transparent",
        width: 0,
        points: { show: false },
      });
      series.push({
        label: `${label} max`,
        stroke: "transparent",
        width: 0,
        points: { show: false },
      });
      const first = 1 + i * perSeries;
      bands.push({ series: [first + 2, first + 1], fill: alpha(color, 18) });
    }
  });
  return {
    width: look.width,
    height: look.height,
    padding: [8, 8, 0, 0],
    series,
    bands,
    legend: { show: false },
    cursor: {
      y: false,
      points: { size: 6 },
      drag: { x: look.onZoom !== undefined, y: false, setScale: false },
      ...(look.syncKey === undefined ? {} : { sync: { key: look.syncKey, setSeries: false } }),
    },
    scales: {
      x: { time: true, auto: false },
      y: {
        range: (_u, _min, top) => {
          const max = look.max ?? (Number.isFinite(top) && top > 0 ? top * 1.12 : 1);
          return [0, max];
        },
      },
    },
    axes: [
      {
        ...axis,
        size: 22,
        gap: 6,
        space: 64,
        values: (_u, splits, _i, _space, step) => timeLabels(splits, step),
      },
      {
        ...axis,
        size: 62,
        gap: 6,
        space: 34,
        ...(BINARY_UNITS.has(look.unit) ? { incrs: BINARY_STEPS } : {}),
        values: (_u, splits) => splits.map((value) => shortUnit(value, look.unit)),
      },
    ],
    hooks: {
      draw: [(u) => thresholdLines(u, look.thresholds)],
      setCursor: [(u) => look.onIndex(u.cursor.idx ?? null)],
      setSelect: [
        (u) => {
          const { left, width } = u.select;
          if (width < 4) return;
          const from = u.posToVal(left, "x") * 1000;
          const to = u.posToVal(left + width, "x") * 1000;
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          look.onZoom?.(Math.round(from), Math.round(to));
        },
      ],
    },
  };
}

/** Axis labels carry no needless decimals: `25 %`, not `25.0 %`. */
function shortUnit(value: number, unit: string): string {
  return unit === "percent" ? `${Math.round(value)} %` : withUnit(value, unit);
}
