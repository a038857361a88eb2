// The words for what the API names with identifiers.
import type { DeviceHealth, DeviceStatus } from "@/lib/api/types";

export const STATUS_LABEL: Record<DeviceStatus, string> = {
  online: "Online",
  offline: "Offline",
  pending: "Pending",
  maintenance: "Maintenance",
  decommissioned: "Decommissioned",
};

export const HEALTH_LABEL: Record<DeviceHealth, string> = {
  ok: "Healthy",
  warning: "Warning",
  error: "Error",
};

const OS: Record<string, string> = { linux: "Linux", windows: "Windows", macos: "macOS" };

export function osLabel(os: string): string {
  return OS[os] ?? os;
}

/** A text that was reported, or a dash: an agent that does not know sends an empty one. */
export function known(text: string | null | undefined): string {
  return text === null || text === undefined || text === "" ? "–" : text;
}

/** `enrollment_key.create` -> `Enrollment key create`, for names that have no words of their own. */
export function humanize(name: string): string {
  const words = name.replaceAll(/[._:-]+/g, " ").trim();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

export function deviceName(device: { display_name?: string | null; hostname: string }): string {
  return device.display_name ?? device.hostname;
}
