// The stretch of time that the metrics page shows.
import type { DeviceSearch, Range } from "@/lib/url";

export const RANGE_MS: Record<Range, number> = {
  "1h": 3_600_000,
  "6h": 6 * 3_600_000,
  "24h": 24 * 3_600_000,
  "7d": 7 * 86_400_000,
  "30d": 30 * 86_400_000,
  "90d": 90 * 86_400_000,
};

export const RANGE_LABEL: Record<Range, string> = {
  "1h": "1 h",
  "6h": "6 h",
  "24h": "24 h",
  "7d": "7 d",
  "30d": "30 d",
  "90d": "90 d",
};

export const ZOOM_MIN_MS = 60_000;

export type Stretch =
  { kind: "last"; range: Range; ms: number } | { kind: "fixed"; from: number; to: number };

/** What a URL asks for: a zoomed stretch, or the last hours or days. */
export function stretchOf(search: DeviceSearch): Stretch {
  if (search.from !== undefined && search.to !== undefined) {
    const middle = (search.from + search.to) / 2;
    const half = Math.max(ZOOM_MIN_MS, search.to - search.from) / 2;
    return { kind: "fixed", from: Math.round(middle - half), to: Math.round(middle + half) };
  }
  const range = search.range ?? "1h";
  return { kind: "last", range, ms: RANGE_MS[range] };
}

/** A short range is asked for again often, a long one seldom: that is when it changes. */
export function refreshMs(stretch: Stretch): number | false {
  if (stretch.kind === "fixed") return false;
  return stretch.ms <= RANGE_MS["6h"] ? 30_000 : stretch.ms <= RANGE_MS["24h"] ? 60_000 : 300_000;
}

/** What to say of regions whose history does not answer: the gaps in the graphs are theirs. */
export function missingRegions(regions: readonly string[]): string {
  const [only] = regions;
  if (regions.length === 1 && only !== undefined) {
    return `Region ${only} does not answer: its points are missing.`;
  }
  return `Regions ${regions.slice(0, -1).join(", ")} and ${regions.at(-1) ?? ""} do not answer: their points are missing.`;
}
