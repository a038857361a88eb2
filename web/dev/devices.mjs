// Development fixture: made-up devices with plausible figures. Never shipped.

let seed = 7;
export function random() {
  seed = (seed * 1664525 + 1013904223) >>> 0;
  return seed / 2 ** 32;
}
const pick = (list) => list[Math.floor(random() * list.length)];
export function uuid() {
  const hex = Array.from({ length: 32 }, () => Math.floor(random() * 16).toString(16));
  hex[12] = "7";
  hex[16] = "8";
  const s = hex.join("");
  return `${s.slice(0, 8)}-${s.slice(8, 12)}-${s.slice(12, 16)}-${s.slice(16, 20)}-${s.slice(20)}`;
}

export const partner = { id: uuid(), name: "Northwind IT" };
export const organization = { id: uuid(), name: "City Hospital" };
export const sites = ["Main building", "Radiology", "Outpatients"].map((name) => ({
  id: uuid(),
  name,
  timezone: "Europe/Berlin",
}));

const SYSTEMS = [
  ["linux", "Debian 12.8", "amd64", ["web", "db", "mail", "build", "ci"]],
  ["linux", "Ubuntu 24.04", "amd64", ["app", "cache", "proxy"]],
  ["windows", "11 Pro 24H2", "amd64", ["ws", "frontdesk", "ward"]],
  ["windows", "Server 2022", "amd64", ["dc", "files", "print"]],
  ["macos", "15.1", "arm64", ["mac", "studio"]],
];
const MAKERS = [
  ["Dell Inc.", "OptiPlex 7010"],
  ["LENOVO", "ThinkCentre M70q"],
  ["HP", "ProDesk 600 G6"],
  ["Supermicro", "SYS-1029P"],
  ["Apple Inc.", "Mac14,3"],
];
const USERS = ["a.keller", "m.okafor", "j.lindqvist", "s.tanaka", "root", "p.novak", null];
const TAGS = ["patched", "critical", "lab", "kiosk", "floor-2", "vip", "legacy"];

export function makeDevice(i) {
  const [os_type, os_version, architecture, stems] = pick(SYSTEMS);
  const [manufacturer, model] = pick(MAKERS);
  const site = pick(sites);
  const r = random();
  const status = r < 0.82 ? "online" : r < 0.97 ? "offline" : r < 0.985 ? "maintenance" : "pending";
  const on = status === "online" || status === "maintenance";
  const seen = Date.now() - (on ? random() * 20_000 : random() * 30 * 86_400_000);
  const hostname =
    i === 3 ? "<img src=x onerror=alert(1)>" : `${pick(stems)}-${String(i + 1).padStart(2, "0")}`;
  const h = random();
  return {
    id: uuid(),
    hostname,
    display_name: random() < 0.08 ? `${site.name} ${hostname}` : null,
    os_type,
    os_version,
    architecture,
    agent_version: pick(["0.1.0", "0.1.0", "0.0.9"]),
    status,
    last_seen_at: new Date(seen).toISOString(),
    status_since: new Date(seen - random() * 5 * 86_400_000).toISOString(),
    enrolled_at: new Date(Date.now() - random() * 200 * 86_400_000).toISOString(),
    organization,
    site: { id: site.id, name: site.name },
    tags: TAGS.filter(() => random() < 0.14),
    last_user: pick(USERS),
    health: h < 0.86 ? "ok" : h < 0.95 ? "warning" : "error",
    pending_reboot: random() < 0.06,
    public_ip: `203.0.113.${Math.floor(random() * 250) + 1}`,
    primary_ip: `10.${Math.floor(random() * 8)}.${Math.floor(random() * 250)}.${Math.floor(random() * 250) + 1}`,
    cpu_percent: on ? Math.round(random() ** 3 * 1000) / 10 : null,
    ram_percent: on ? Math.round((20 + random() * 75) * 10) / 10 : null,
    disk_percent: on ? Math.round((10 + random() * 85) * 10) / 10 : null,
    uptime_s: on ? Math.floor(random() * 60 * 86_400) : null,
    cpu_model: pick([
      "Intel Core i5-12500T",
      "AMD Ryzen 7 PRO 5750G",
      "Intel Xeon Silver 4314",
      "Apple M2",
    ]),
    cpu_threads: pick([4, 8, 12, 16, 32]),
    ram_gb: pick([8, 16, 32, 64]),
    disk_gb: pick([238, 476, 953, 1862]),
    serial_number: `SN${Math.floor(random() * 1e8)}`,
    manufacturer,
    model,
  };
}

export function fullDevice(d) {
  const linked = d.status === "online";
  return {
    ...d,
    os_build: "6.1.0-28",
    enrolled_by: "Main key",
    heartbeat_interval_s: 60,
    clock_offset_ms: 142,
    thinned_heartbeats: 12,
    connection: linked
      ? {
          relay_id: "local-1",
          region: "local",
          transport: "quic",
          address: `${d.public_ip}:51820`,
          round_trip_ms: 11.4,
          since: new Date(Date.now() - 7_400_000).toISOString(),
          certificate_expires_at: new Date(Date.now() + 5 * 86_400_000).toISOString(),
        }
      : null,
    created_at: d.enrolled_at,
    updated_at: d.last_seen_at,
    version: d.version ?? 1,
  };
}

/** The few forms of the filter language that the pages are looked at with. */
export function matches(device, filter, q) {
  const text = `${device.hostname} ${device.display_name ?? ""} ${device.primary_ip} ${device.last_user ?? ""} ${device.tags.join(" ")}`;
  if (q && !text.toLowerCase().includes(q.toLowerCase())) return false;
  if (!filter) return true;
  return filter.split(/\s+and\s+/i).every((part) => {
    const tag = /^tag:"?([^"]+)"?$/.exec(part);
    if (tag) return device.tags.includes(tag[1]);
    const list = /^(\w+)\s+in\s+\(([^)]*)\)$/.exec(part);
    const field = (name) =>
      name === "os" ? device.os_type : name === "site" ? device.site.name : device[name];
    const bare = (s) => s.trim().replace(/^"|"$/g, "");
    if (list)
      return list[2]
        .split(",")
        .map(bare)
        .includes(String(field(list[1])));
    const test = /^(\w+)\s*(!=|>=|<=|=|>|<|~)\s*(.+)$/.exec(part);
    if (!test) return text.includes(part);
    const [, name, op, raw] = test;
    const have = field(name);
    const want = bare(raw);
    if (op === "=") return String(have) === want;
    if (op === "!=") return String(have) !== want;
    if (op === "~") return String(have).includes(want.replaceAll("*", ""));
    const n = Number(want);
    return (
      have != null &&
      (op === ">" ? have > n : op === ">=" ? have >= n : op === "<" ? have < n : have <= n)
    );
  });
}

export function facetsOf(devices) {
  const facets = { status: {}, os_type: {}, health: {}, tags: {} };
  const add = (map, key) => key != null && (map[key] = (map[key] ?? 0) + 1);
  for (const d of devices) {
    add(facets.status, d.status);
    add(facets.os_type, d.os_type);
    add(facets.health, d.health);
    d.tags.forEach((t) => add(facets.tags, t));
  }
  return facets;
}
