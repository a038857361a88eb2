// How versions of an inventory, and what is different between two, are told.
import type { InventoryChange, InventoryVersionInfo } from "@/lib/api/types";
import { humanize } from "@/lib/format/labels";
import { bytes, plural } from "@/lib/format/numbers";

const SECTION: Record<string, string> = {
  hardware: "Hardware",
  network: "Network",
  software: "Software",
};

export function sectionLabel(section: string): string {
  return SECTION[section] ?? humanize(section);
}

/** A version in one line: `Software: 1 added, 2 updated`. */
export function versionTitle(version: InventoryVersionInfo): string {
  const label = sectionLabel(version.section);
  if (version.first === true) return `${label} reported for the first time`;
  const { counts } = version;
  if (counts === null) return `${label} changed`;
  const parts = [
    [counts.added, "added"],
    [counts.removed, "removed"],
    [counts.updated, "updated"],
  ]
    .filter(([n]) => n !== 0)
    .map(([n, word]) => `${n} ${word}`);
  return parts.length === 0 ? `${label} changed` : `${label}: ${parts.join(", ")}`;
}

const FIELD: Record<string, string> = {
  cpu_model: "Processor",
  cpu_cores: "Cores",
  cpu_threads: "Threads",
  ram_total_mb: "Memory",
  disk_total_gb: "Disks together",
  gpu_model: "Graphics",
  bios_version: "Firmware",
  virtualization: "Virtual machine",
  mac_address: "MAC address",
  prefix_len: "Prefix length",
  is_primary: "Main address",
  install_date: "Installed",
  install_location: "Folder",
  total_bytes: "Size",
};

export function fieldLabel(field: string): string {
  return FIELD[field] ?? humanize(field);
}

/** A value as people read it: sizes with units, truth in words, nothing as a dash. */
export function fieldValue(field: string, value: string | null): string {
  if (value === null || value === "") return "–";
  const n = Number(value);
  if (field === "ram_total_mb") return bytes(n * 1024 ** 2);
  if (field === "disk_total_gb") return bytes(n * 1024 ** 3);
  if (field === "total_bytes") return bytes(n);
  if (value === "true") return "yes";
  if (value === "false") return "no";
  return value;
}

const WHAT: Record<string, string> = {
  software: "",
  disk: "File system",
  address: "Address",
  dns_server: "DNS server",
  hardware: "",
  network: "",
};

/** What the entry is, where its name does not say so. */
export function changeName(change: InventoryChange): string {
  const what = WHAT[change.what] ?? humanize(change.what);
  return [what, change.name].filter((part) => part !== "").join(" ");
}

/** The one thing worth saying of an entry that came or went. */
export function gist(change: InventoryChange): string {
  const of = (name: string) => {
    const field = change.fields.find((candidate) => candidate.field === name);
    return field === undefined ? "" : fieldValue(name, field.after ?? field.before);
  };
  return of("version") || of("file_system") || of("mac_address");
}

/** How many are not shown. */
export function restOf(total: number, shown: number): string {
  return total > shown ? `${plural(total - shown, "more change")} not shown` : "";
}
