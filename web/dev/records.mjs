// Development fixture: inventory, audit and system status.
import { uuid } from "./devices.mjs";

const ago = (s) => new Date(Date.now() - s * 1000).toISOString();

export const hardware = (d) => ({
  cpu_model: d.cpu_model,
  cpu_cores: d.cpu_threads / 2,
  cpu_threads: d.cpu_threads,
  ram_total_mb: d.ram_gb * 1024,
  disk_total_gb: d.disk_gb,
  gpu_model: null,
  serial_number: d.serial_number,
  manufacturer: d.manufacturer,
  model: d.model,
  bios_version: "1.14.2",
  virtualization: null,
  disks: [
    {
      mount: "/",
      device: "/dev/nvme0n1p2",
      file_system: "ext4",
      total_bytes: 255e9,
      removable: false,
    },
    {
      mount: "/boot/efi",
      device: "/dev/nvme0n1p1",
      file_system: "vfat",
      total_bytes: 5e8,
      removable: false,
    },
    {
      mount: "/home",
      device: "/dev/nvme0n1p3",
      file_system: "ext4",
      total_bytes: 240e9,
      removable: false,
    },
  ],
  updated_at: ago(5400),
});
export const network = (d) => ({
  addresses: [
    {
      interface_name: "eth0",
      mac_address: "52:54:00:ab:cd:01",
      ip_address: d.primary_ip,
      prefix_len: 24,
      ip_type: "ipv4",
      is_primary: true,
    },
    {
      interface_name: "eth0",
      mac_address: "52:54:00:ab:cd:01",
      ip_address: "fe80::5054:ff:feab:cd01",
      prefix_len: 64,
      ip_type: "ipv6",
      is_primary: false,
    },
    {
      interface_name: "lo",
      mac_address: null,
      ip_address: "127.0.0.1",
      prefix_len: 8,
      ip_type: "ipv4",
      is_primary: false,
    },
  ],
  dns_servers: ["10.0.0.53", "9.9.9.9"],
  default_gateway: "10.0.0.1",
  public_ip: d.public_ip,
  updated_at: ago(5400),
});
const PROGRAMS = [
  "adduser",
  "apt",
  "bash",
  "bind9-libs",
  "ca-certificates",
  "chromium",
  "coreutils",
  "curl",
  "dpkg",
  "fontconfig",
  "gcc-12",
  "git",
  "gnupg",
  "libc6",
  "libssl3",
  "nginx",
  "openssh-server",
  "postgresql-15",
  "python3",
  "rsync",
  "sudo",
  "systemd",
  "tar",
  "tzdata",
  "vim",
  "zlib1g",
];
export const software = Array.from({ length: 420 }, (_, i) => ({
  name:
    i < PROGRAMS.length
      ? PROGRAMS[i]
      : `lib${PROGRAMS[i % PROGRAMS.length]}-${Math.floor(i / PROGRAMS.length)}`,
  version: `${1 + (i % 9)}.${i % 23}.${i % 7}-${1 + (i % 3)}`,
  publisher: "Debian",
  install_date: i % 3 === 0 ? "2026-08-14" : null,
  install_location: null,
  is_system: i % 4 !== 0,
  source: "dpkg",
  architecture: i % 5 === 0 ? "all" : "amd64",
})).sort((a, b) => (a.name < b.name ? -1 : 1));

const ACTIONS = [
  ["device.update", "device", "web-12", "success"],
  ["enrollment_key.create", "enrollment_key", "Radiology roll-out", "success"],
  ["auth.login", "user", "ada@example.com", "success"],
  ["auth.login", "user", "eve@example.com", "denied"],
  ["device.enroll", "device", "ward-31", "success"],
  ["device.delete", "device", "mac-08", "success"],
  ["pending_device.approve", "device", "kiosk-02", "success"],
];
export const auditLog = Array.from({ length: 340 }, (_, i) => {
  const [action, resource_type, resource_name, result] = ACTIONS[i % ACTIONS.length];
  const byAgent = action === "device.enroll";
  return {
    id: uuid(),
    timestamp: ago(i * 1300 + 20),
    actor_type: byAgent ? "device" : "user",
    actor_id: uuid(),
    actor_email: byAgent ? null : "ada@example.com",
    action,
    resource_type,
    resource_id: uuid(),
    resource_name,
    result,
    ip_address: "198.51.100.7",
    request_id: `01JD${i}Q2N7`,
    details: action === "device.update" ? { tags: { from: [], to: ["patched"] } } : {},
  };
});

// REGIONS=1: a system of three regions with some hundred roles, of which some are in trouble.
const REGIONS = ["eu-central", "us-east", "asia-south"];
const manyRegions = () =>
  REGIONS.map((name, i) => ({
    name,
    missing: i === 2,
    roles: 34,
    roles_ready: [33, 34, 0][i],
    roles_gone: [1, 0, 34][i],
    lanes: 16,
    lag_entries: [41, 12_400, 0][i],
    lag_seconds: [0.8, 74, 0][i],
    foreign: [],
  }));
const manyEngines = () =>
  REGIONS.flatMap((region, i) =>
    ["bus", "metrics"].map((engine) => ({
      engine,
      region,
      reachable: i !== 2,
      error: i === 2 ? "no answer within 2 s" : null,
    })),
  ).concat([{ engine: "state", region: "eu-central", reachable: true, error: null }]);
const manyRoles = () =>
  REGIONS.flatMap((region, r) =>
    Array.from({ length: 34 }, (_, i) => ({
      role: i < 20 ? "relay" : i < 32 ? "collector" : "control-plane",
      id: `${region}-${i}`,
      region,
      version: "0.1.0",
      started_at: ago(93_000 + i * 1_000),
      seen_at: ago(r === 2 || (r === 0 && i === 5) ? 240 : 2),
      ready: r !== 2 && !(r === 0 && (i === 5 || i === 22)),
      gone: r === 2 || (r === 0 && i === 5),
      message: r === 0 && i === 22 ? "lane 3: ClickHouse does not answer" : "",
      gauges: [{ name: "connections", unit: "", value: 4_100 + i }],
    })),
  );

// REGIONS=2: two regions as a small system has them; the metrics of one do not answer, a relay is gone.
const twoRegions = () => [
  {
    name: "eu",
    missing: false,
    roles: 5,
    roles_ready: 4,
    roles_gone: 1,
    lanes: 4,
    lag_entries: 12,
    lag_seconds: 0.4,
    foreign: [],
  },
  {
    name: "us",
    missing: false,
    roles: 5,
    roles_ready: 3,
    roles_gone: 0,
    lanes: 4,
    lag_entries: 18_204,
    lag_seconds: 412,
    foreign: [{ home: "eu", entries: 1_204, waiting_seconds: 420 }],
  },
];
const twoEngines = () =>
  ["eu", "us"]
    .flatMap((region) =>
      ["bus", "metrics"].map((engine) => {
        const away = region === "us" && engine === "metrics";
        const error =
          "metrics storage is unavailable: ClickHouse at https://clickhouse.us:8443: connection refused";
        return { engine, region, reachable: !away, error: away ? error : null };
      }),
    )
    .concat([{ engine: "state", region: "eu", reachable: true, error: null }]);
const behind =
  "lane 1: the metrics store is 412 s behind (9,102 entries), presence goes on: metrics storage is unavailable: connection refused";
const twoRoles = () =>
  ["eu", "us"].flatMap((region) =>
    ["relay-1", "relay-2", "collector-a", "collector-b", "node"].map((id, i) => {
      const role = i < 2 ? "relay" : i < 4 ? "collector" : "control-plane";
      const gone = region === "eu" && id === "relay-2";
      const late = region === "us" && role === "collector";
      return {
        role,
        id: `${region}-${id}`,
        region,
        version: "0.1.0",
        started_at: ago(93_000 + i * 1_000),
        seen_at: ago(gone ? 95 : 1 + i / 3),
        ready: !gone && !late,
        gone,
        message: gone ? "silent for 95 s" : late ? behind : "",
        gauges:
          role === "relay"
            ? [
                { name: "relay_sessions", unit: "", value: 1_204 },
                { name: "relay_batch_wait", unit: "ms", value: 4.2 },
              ]
            : role === "collector"
              ? [
                  { name: "collector_heartbeats", unit: "per_second", value: 20.1 },
                  { name: "collector_store_lag", unit: "seconds", value: late ? 412 : 0.4 },
                  { name: "collector_lanes_owned", unit: "", value: 2 },
                ]
              : [{ name: "control_plane_websockets", unit: "", value: 3 }],
      };
    }),
  );
const twoLanes = () =>
  ["eu", "us"].flatMap((region) =>
    [0, 1, 2, 3].map((lane) => ({
      region,
      lane,
      first: region === "us" ? 164_140 : 182_300 + lane * 77,
      last: 182_344 + lane * 77,
      bytes: region === "us" ? 3.1e8 + lane * 1e6 : 2.4e5,
      lag_entries: region === "us" ? 4_551 : lane === 2 ? 12 : 0,
      owner: lane < 2 ? `${region}-collector-a` : `${region}-collector-b`,
    })),
  );

const two = process.env.REGIONS === "2";
export const status = (n) => ({
  version: "0.1.0",
  started_at: ago(93_000),
  ready: !process.env.REGIONS,
  storage: { data_bytes: 1.84e9, free_bytes: 61e9, metrics_bytes: 4.1e8, metrics_rows: 3.3e8 },
  regions: process.env.REGIONS
    ? two
      ? twoRegions()
      : manyRegions()
    : [
        {
          name: "local",
          missing: false,
          roles: 3,
          roles_ready: 3,
          roles_gone: 0,
          lanes: 4,
          lag_entries: 14,
          lag_seconds: 0.4,
          foreign: [],
        },
      ],
  engines: process.env.REGIONS
    ? two
      ? twoEngines()
      : manyEngines()
    : ["bus", "state", "metrics"].map((engine) => ({
        engine,
        region: "local",
        reachable: true,
        error: null,
      })),
  roles: process.env.REGIONS
    ? two
      ? twoRoles()
      : manyRoles()
    : [
        {
          role: "relay",
          id: "local-1",
          region: "local",
          version: "0.1.0",
          started_at: ago(93_000),
          seen_at: ago(2),
          ready: true,
          gone: false,
          message: "",
          gauges: [
            { name: "sessions", unit: "", value: n },
            { name: "memory", unit: "bytes", value: 74e6 },
            { name: "batch_wait", unit: "ms", value: 4.2 },
          ],
        },
        {
          role: "collector",
          id: "local-1",
          region: "local",
          version: "0.1.0",
          started_at: ago(93_000),
          seen_at: ago(3),
          ready: true,
          gone: false,
          message: "",
          gauges: [{ name: "rows", unit: "per_s", value: n / 60 }],
        },
        {
          role: "control-plane",
          id: "local-1",
          region: "local",
          version: "0.1.0",
          started_at: ago(93_000),
          seen_at: ago(1),
          ready: true,
          gone: false,
          message: "",
          gauges: [{ name: "websockets", unit: "", value: 2 }],
        },
      ],
  lanes: two
    ? twoLanes()
    : [0, 1, 2, 3].map((lane) => ({
        region: "local",
        lane,
        first: 120_000,
        last: 182_344 + lane * 77,
        bytes: 3.1e7 + lane * 1e6,
        lag_entries: lane === 2 ? 14 : 0,
        owner: lane === 3 ? null : "local-1",
      })),
  drops: [
    { name: "heartbeats_thinned", count: 12 },
    { name: "frames_malformed", count: 0 },
    { name: "handshakes_refused", count: 3 },
  ],
});
