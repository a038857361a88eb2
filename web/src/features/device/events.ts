// How events of a device are told: one look for each kind, days, and the regions that say nothing.
import { humanize } from "@/lib/format/labels";
import { dayName } from "@/lib/format/time";

export type EventLook =
  "online" | "offline" | "connected" | "disconnected" | "inventory" | "left_out" | "other";

/** Kinds that a newer server knows are shown as well, with their own name. */
export function eventLook(kind: string): EventLook {
  switch (kind) {
    case "online":
    case "offline":
    case "connected":
    case "disconnected":
    case "left_out":
      return kind;
    case "inventory_changed":
      return "inventory";
    default:
      return "other";
  }
}

export function eventTitle(kind: string): string {
  return humanize(kind);
}

/** What happened on one day after the other, in the viewer's zone; the order stays. */
export function byDay<T extends { at: string }>(all: readonly T[]): [day: string, of: T[]][] {
  const days: [string, T[]][] = [];
  for (const one of all) {
    const day = dayName(one.at);
    const last = days.at(-1);
    if (last?.[0] === day) last[1].push(one);
    else days.push([day, [one]]);
  }
  return days;
}

/** Empty when all regions answered. */
export function missingRegions(regions: readonly string[], what: string): string {
  if (regions.length === 0) return "";
  return `No answer from ${regions.join(", ")}: ${what} from there are missing.`;
}
