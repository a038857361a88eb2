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

/** The system in words: `Debian 12 (bookworm)`, `Windows Server 2022`. Linux says its name itself. */
export function systemName(device: { os_type: string; os_version: string }): string {
  const { os_type, os_version } = device;
  if (os_type === "linux" && /^[A-Za-z]/.test(os_version))
    return os_version.replace(" GNU/Linux", "");
  return `${osLabel(os_type)} ${os_version}`.trim();
}

/** `Northwind IT › City Hospital`; once, where both have the same name. */
export function scopeName(partner: string, organization: string): string {
  return partner === organization ? organization : `${partner} › ${organization}`;
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
