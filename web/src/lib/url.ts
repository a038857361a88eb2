// Search parameters as plain text: `?q=web&sort=-cpu_percent`, nothing quoted, nothing empty.

export type RawSearch = Record<string, unknown>;

export function parseSearch(text: string): Record<string, string> {
  return Object.fromEntries(new URLSearchParams(text));
}

export function stringifySearch(search: RawSearch): string {
  const params = new URLSearchParams();
  for (const [key, value] of Object.entries(search)) {
    if (typeof value === "string" && value !== "") params.set(key, value);
    else if (typeof value === "number" && Number.isFinite(value)) params.set(key, String(value));
    else if (value === true) params.set(key, "1");
  }
  const text = params.toString();
  return text === "" ? "" : `?${text}`;
}

/** Text, or nothing where it is missing, empty or not text. */
export function textParam(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}

export function oneOf<const T extends readonly string[]>(
  value: unknown,
  all: T,
): T[number] | undefined {
  return all.find((candidate) => candidate === value);
}

export function numberParam(value: unknown): number | undefined {
  const number = typeof value === "string" && value !== "" ? Number(value) : value;
  return typeof number === "number" && Number.isFinite(number) ? number : undefined;
}

/** A path of this site to go on to after signing in; anything else would be an open redirect. */
export function localPath(value: unknown): string | undefined {
  const text = textParam(value);
  if (text === undefined || !text.startsWith("/") || /^\/[/\\]/.test(text)) return undefined;
  return text;
}

export const DEVICE_TABS = [
  "overview",
  "metrics",
  "hardware",
  "software",
  "network",
  "connection",
  "changes",
  "events",
] as const;
export type DeviceTab = (typeof DEVICE_TABS)[number];

export const DEVICE_SORTS = [
  "hostname",
  "display_name",
  "status",
  "last_seen_at",
  "os_type",
  "os_version",
  "agent_version",
  "cpu_percent",
  "ram_percent",
  "disk_percent",
  "enrolled_at",
  "uptime_s",
] as const;

export interface DevicesSearch {
  q?: string;
  filter?: string;
  sort?: string;
  /** The device shown beside the list. */
  peek?: string;
}

export function devicesSearch(raw: RawSearch): DevicesSearch {
  const sort = textParam(raw.sort);
  const known =
    sort !== undefined && (DEVICE_SORTS as readonly string[]).includes(sort.replace(/^-/, ""));
  return compact({
    q: textParam(raw.q),
    filter: textParam(raw.filter),
    sort: known ? sort : undefined,
    peek: textParam(raw.peek),
  });
}

export const RANGES = ["1h", "6h", "24h", "7d", "30d", "90d"] as const;
export type Range = (typeof RANGES)[number];

/** Kinds of events that are chosen together. */
export const EVENT_CHOICES = ["presence", "connections", "inventory"] as const;
export type EventChoice = (typeof EVENT_CHOICES)[number];
/** Parts of an inventory. */
export const SECTIONS = ["software", "hardware", "network"] as const;
export type Section = (typeof SECTIONS)[number];

export interface DeviceSearch {
  tab?: DeviceTab;
  range?: Range;
  /** A zoomed stretch, milliseconds since 1970. */
  from?: number;
  to?: number;
  /** Series beside the standard ones: cpu., disk., net., custom. */
  details?: string;
  /** Search inside the software list. */
  find?: string;
  /** Which events are shown; all without it. */
  events?: EventChoice;
  /** Whose changes are shown; all without it. */
  section?: Section;
}

export function deviceSearch(raw: RawSearch): DeviceSearch {
  const from = numberParam(raw.from);
  const to = numberParam(raw.to);
  const zoomed = from !== undefined && to !== undefined && from < to;
  return compact({
    tab: oneOf(raw.tab, DEVICE_TABS),
    range: oneOf(raw.range, RANGES),
    from: zoomed ? from : undefined,
    to: zoomed ? to : undefined,
    details: textParam(raw.details),
    find: textParam(raw.find),
    events: oneOf(raw.events, EVENT_CHOICES),
    section: oneOf(raw.section, SECTIONS),
  });
}

export const AUDIT_RANGES = ["24h", "7d", "30d", "90d", "all"] as const;
export type AuditRange = (typeof AUDIT_RANGES)[number];
export const AUDIT_RESULTS = ["success", "failure", "denied"] as const;

export interface AuditSearch {
  q?: string;
  since?: AuditRange;
  result?: (typeof AUDIT_RESULTS)[number];
  /** An action, or how actions begin, followed by `*`. */
  action?: string;
  actor?: string;
}

export function auditSearch(raw: RawSearch): AuditSearch {
  return compact({
    q: textParam(raw.q),
    since: oneOf(raw.since, AUDIT_RANGES),
    result: oneOf(raw.result, AUDIT_RESULTS),
    action: textParam(raw.action),
    actor: textParam(raw.actor),
  });
}

/** Without the keys that hold nothing, so that the URL stays short. */
export function compact<T extends object>(value: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, v]) => v !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}
