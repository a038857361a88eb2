// Points of the API as columns for uPlot: one time axis, gaps as gaps, bands beside the line.

/** `[t_ms, avg, min, max, last]` */
export type Point = readonly number[];

export interface ChartSeries {
  name: string;
  points: readonly Point[];
}

export interface Aligned {
  /** Times in seconds, then for each series: avg, and with a band: min, max. */
  columns: [number[], ...(number | null | undefined)[][]];
  /** True where min and max are there to be drawn. */
  band: boolean;
}

/** How long without a point counts as a gap: a late one is not, two missing are. */
export function gapAfterMs(stepSeconds: number): number {
  return stepSeconds * 2.5 * 1000;
}

/** Times just after a point whose next one is too far away. */
export function gapTimes(points: readonly Point[], gapMs: number): number[] {
  const gaps: number[] = [];
  for (let i = 1; i < points.length; i += 1) {
    const before = points[i - 1]?.[0] ?? 0;
    const after = points[i]?.[0] ?? 0;
    if (after - before > gapMs) gaps.push(before + 1);
  }
  return gaps;
}

/**
 * Brings the series to one time axis. Where a series has no point of its own the cell is
 * `undefined` (the line goes on); where it has a gap the cell is `null` (the line breaks).
 */
export function align(series: readonly ChartSeries[], gapMs: number, band: boolean): Aligned {
  const gaps = series.map((one) => gapTimes(one.points, gapMs));
  const times = [
    ...new Set([
      ...series.flatMap((one) => one.points.map((point) => point[0] ?? 0)),
      ...gaps.flat(),
    ]),
  ].sort((a, b) => a - b);
  const index = new Map(times.map((time, i) => [time, i]));
  const columns = series.flatMap((one, s) => {
    const width = band ? [1, 2, 3] : [1];
    return width.map((field) => {
      const column = new Array<number | null | undefined>(times.length).fill(undefined);
      for (const time of gaps[s] ?? []) column[index.get(time) ?? 0] = null;
      for (const point of one.points) column[index.get(point[0] ?? 0) ?? 0] = point[field] ?? null;
      return column;
    });
  });
  return { columns: [times.map((time) => time / 1000), ...columns], band };
}

/** Adds newer points to a series and lets the oldest go. */
export function appended(points: readonly Point[], next: Point, keepMs: number): Point[] {
  const at = next[0] ?? 0;
  const last = points.at(-1)?.[0] ?? -Infinity;
  if (at <= last) return [...points];
  return [...points.filter((point) => (point[0] ?? 0) > at - keepMs), next];
}
