// Development fixture: what happened to a device, and what its inventory was.
const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const began = Date.now();
const at = (ms) => new Date(began - ms).toISOString();
const event = (ms, kind, summary, details = {}) => ({ at: at(ms), kind, summary, details });
// MISSING=us-east: a region whose history does not answer.
const missing_regions = process.env.MISSING ? process.env.MISSING.split(",") : [];

const came = (ms, words) => [
  event(ms, "online", words),
  event(
    ms + 1,
    "connected",
    "Connected from 203.0.113.24 over quic through relay eu-central-relay-2",
  ),
];
const went = (ms, words, why) => [
  event(ms, "offline", `Offline: ${words}`),
  event(ms + 1, "disconnected", `Disconnected from relay eu-central-relay-2: ${why}`),
];
const EVENTS = [
  event(14 * MINUTE, "inventory_changed", "Software changed: 2 added, 1 removed, 3 updated"),
  ...came(52 * MINUTE, "Online again after 4 minutes"),
  ...went(56 * MINUTE, "the agent ended its connection", "the agent ended the connection"),
  ...came(7 * HOUR, "Online again after 9 hours"),
  event(
    16 * HOUR,
    "offline",
    "Offline: relay eu-central-relay-1 is gone, and the device did not come back through another",
  ),
  event(
    27 * HOUR,
    "left_out",
    "412 more changes between online and offline in this hour are counted only",
  ),
  event(
    27 * HOUR + MINUTE,
    "left_out",
    "764 more connections and disconnections in this hour are counted only",
  ),
  ...Array.from({ length: 12 }, (_, i) => [
    ...came(27 * HOUR + (2 + 4 * i) * MINUTE, "Online again after 1 minute"),
    ...went(
      27 * HOUR + (4 + 4 * i) * MINUTE,
      "nothing was heard of it any more",
      "nothing came any more",
    ),
  ]).flat(),
  event(2 * DAY, "inventory_changed", "Network changed"),
  event(3 * DAY, "moved", "Moved from region us-east to eu-central"),
  event(9 * DAY, "inventory_changed", "Hardware changed"),
  ...Array.from({ length: 60 }, (_, i) => [
    ...came((10 + i) * DAY, "Online again after 11 hours"),
    ...went((10 + i) * DAY + 11 * HOUR, "the agent ended its connection", "goodbye"),
  ]).flat(),
  event(200 * DAY, "inventory_changed", "Software reported for the first time"),
  ...came(200 * DAY + MINUTE, "Online for the first time"),
];

const change = (kind, what, name, qualifier, fields) => ({ kind, what, name, qualifier, fields });
const field = (name, before, after) => ({ field: name, before, after });
const PACKAGE = "dpkg amd64";
const CHANGES = {
  software: [
    change("changed", "software", "chromium", PACKAGE, [
      field("version", "142.0.7444.59-1~deb12u1", "142.0.7444.134-1~deb12u1"),
      field("install_date", "2026-11-03", "2026-11-24"),
    ]),
    change("changed", "software", "libc6", PACKAGE, [
      field("version", "2.36-9+deb12u8", "2.36-9+deb12u9"),
    ]),
    change("changed", "software", "libc6", "dpkg i386", [
      field("version", "2.36-9+deb12u8", "2.36-9+deb12u9"),
    ]),
    change("added", "software", "nginx", PACKAGE, [field("version", null, "1.22.1-9+deb12u3")]),
    change("added", "software", "nginx-common", "dpkg all", [
      field("version", null, "1.22.1-9+deb12u3"),
    ]),
    change("removed", "software", "telnet", "dpkg all", [field("version", "0.17+2.4-2", null)]),
  ],
  network: [
    change("removed", "address", "10.4.12.71", "eth0", [
      field("mac_address", "52:54:00:ab:cd:01", null),
    ]),
    change("added", "address", "10.4.12.88", "eth0", [
      field("mac_address", null, "52:54:00:ab:cd:01"),
    ]),
    change("added", "dns_server", "9.9.9.9", "", []),
    change("changed", "network", "", "", [field("default_gateway", "10.4.12.1", "10.4.12.254")]),
  ],
  hardware: [
    change("added", "disk", "/data", "", [
      field("file_system", null, "ext4"),
      field("total_bytes", null, "2000398934016"),
    ]),
    change("changed", "hardware", "", "", [
      field("ram_total_mb", "8192", "16384"),
      field("bios_version", "1.12.0", "1.14.2"),
    ]),
  ],
};
const version = (ms, section, more) => ({
  version: `${section}-${began - ms}-${"5a".repeat(32)}`,
  section,
  at: at(ms),
  bytes: 48_211,
  first: false,
  counts: null,
  ...more,
});
const counts = (added, removed, updated) => ({ counts: { added, removed, updated } });
const VERSIONS = [
  version(14 * MINUTE, "software", counts(2, 1, 3)),
  version(2 * DAY, "network"),
  version(9 * DAY, "hardware"),
  ...Array.from({ length: 70 }, (_, i) =>
    version((10 + 2 * i) * DAY, "software", counts(i % 3, i % 2, (i * 7) % 23)),
  ),
  version(200 * DAY, "network", { first: true }),
  version(200 * DAY, "hardware", { first: true }),
  version(200 * DAY, "software", { first: true }),
];

const page = (all, url) => {
  const limit = Number(url.searchParams.get("limit") ?? 50);
  const from = Number(url.searchParams.get("cursor") ?? 0);
  const has_more = from + limit < all.length;
  return {
    data: all.slice(from, from + limit),
    next_cursor: has_more ? String(from + limit) : null,
    has_more,
    missing_regions,
  };
};

export function events(url) {
  const kinds = url.searchParams.get("kind")?.split(",");
  return page(
    EVENTS.filter((one) => kinds?.includes(one.kind) ?? true),
    url,
  );
}

export function versions(url) {
  const section = url.searchParams.get("section");
  return page(
    VERSIONS.filter((one) => section === null || one.section === section),
    url,
  );
}

export function changes(name) {
  const place = VERSIONS.findIndex((one) => one.version === name);
  if (place < 0) return undefined;
  const { section, at: when } = VERSIONS[place];
  const since = VERSIONS.slice(place + 1).find((one) => one.section === section);
  const all = since === undefined ? [] : CHANGES[section];
  return {
    version: name,
    section,
    at: when,
    since: since === undefined ? null : { version: since.version, at: since.at },
    changes: all,
    total: all.length,
    missing_regions,
  };
}
