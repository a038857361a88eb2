// The samples that a device sends while somebody looks, after the history of the last minutes.
import { useQuery } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import { appended, type Point } from "@/components/charts/align";
import { fetchMetrics } from "@/features/device/queries";
import type { MetricSeries } from "@/lib/api/types";
import { useLiveResume, useLiveTopic } from "@/lib/live/hooks";

export const WINDOW_MS = 10 * 60_000;
const TICK_MS = 1_000;

interface Sample {
  t: number;
  values: Record<string, number>;
}

function sampleOf(data: unknown): Sample | null {
  if (typeof data !== "object" || data === null) return null;
  const { t, values } = data as Record<string, unknown>;
  if (typeof t !== "number" || typeof values !== "object" || values === null) return null;
  const numbers = Object.entries(values).filter(
    (entry): entry is [string, number] => typeof entry[1] === "number",
  );
  return { t, values: Object.fromEntries(numbers) };
}

/** Adds a sample to each series that it names; series it does not name stay as they are. */
export function withSample(
  all: readonly MetricSeries[],
  sample: Sample,
  keepMs: number,
): MetricSeries[] {
  return all.map((series) => {
    const value = sample.values[series.name];
    if (value === undefined) return series;
    const point: Point = [sample.t, value, value, value, value];
    return { ...series, points: appended(series.points, point, keepMs) as number[][] };
  });
}

export interface LiveSeries {
  series: readonly MetricSeries[];
  from: number;
  to: number;
  /** When the last sample was taken. */
  last: number | null;
  pending: boolean;
  error: Error | null;
  retry: () => void;
}

export function useLiveSamples(id: string, names: readonly string[]): LiveSeries {
  const history = useQuery({
    queryKey: ["device", id, "recent", names.join(",")],
    queryFn: ({ signal }) => {
      const to = Date.now();
      return fetchMetrics(id, { from: to - WINDOW_MS, to, series: names }, signal);
    },
    staleTime: 0,
    gcTime: 0,
  });
  const [series, setSeries] = useState<readonly MetricSeries[]>([]);
  const [now, setNow] = useState(() => Date.now());
  const missed = useRef<Sample[]>([]);

  const { data } = history;
  useEffect(() => {
    if (data === undefined) return;
    // What came while the history was on its way goes after it.
    const complete = names.map(
      (name) => data.series.find((one) => one.name === name) ?? { name, unit: "", points: [] },
    );
    setSeries(
      missed.current.reduce<MetricSeries[]>(
        (all, sample) => withSample(all, sample, WINDOW_MS),
        complete,
      ),
    );
  }, [data, names]);

  useLiveTopic(`device:${id}`, (message) => {
    if (message.type !== "sample") return;
    const sample = sampleOf(message.data);
    if (sample === null) return;
    missed.current = [...missed.current.filter((one) => one.t > sample.t - WINDOW_MS), sample];
    setSeries((all) => withSample(all, sample, WINDOW_MS));
    setNow(Date.now());
  });
  useLiveResume(() => void history.refetch());

  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), TICK_MS);
    return () => clearInterval(timer);
  }, []);

  const newest = series.reduce((latest, one) => Math.max(latest, one.points.at(-1)?.[0] ?? 0), 0);
  // A device whose clock is ahead still shows its newest sample at the right edge.
  const to = Math.max(now, newest);
  return {
    series,
    from: to - WINDOW_MS,
    to,
    last: newest === 0 ? null : newest,
    pending: history.isPending,
    error: history.error,
    retry: () => void history.refetch(),
  };
}
