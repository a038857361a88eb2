// How events of a device are told: one look for each kind, and the regions that say nothing.
import { humanize } from "@/lib/format/labels";

export type EventLook = "connected" | "disconnected" | "inventory" | "other";

/** Kinds that a newer server knows are shown as well, with their own name. */
export function eventLook(kind: string): EventLook {
  switch (kind) {
    case "connected":
    case "online":
      return "connected";
    case "disconnected":
    case "offline":
      return "disconnected";
    case "inventory_changed":
      return "inventory";
    default:
      return "other";
  }
}

export function eventTitle(kind: string): string {
  return humanize(kind);
}

/** Empty when all regions answered. */
export function missingEvents(regions: readonly string[]): string {
  if (regions.length === 0) return "";
  return `No answer from ${regions.join(", ")}: events from there are missing.`;
}
