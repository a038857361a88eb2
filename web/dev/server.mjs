// Development fixture: enough of the API, in memory, to look at every page before or without a real
// server. Start it with DEVICES=0|1|200|10000; it also serves dist/ under the policy of production.
// It checks nothing and keeps nothing: never point anybody at it.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { WebSocketServer } from "ws";
import {
  facetsOf,
  fullDevice,
  makeDevice,
  matches,
  organization,
  partner,
  random,
  sites,
  uuid,
} from "./devices.mjs";
import { changes, events, versions } from "./history.mjs";
import { auditLog, hardware, network, software, status } from "./records.mjs";
import { metrics, valueAt } from "./series.mjs";

const PORT = Number(process.env.PORT ?? 8787);
let devices = Array.from({ length: Number(process.env.DEVICES ?? 200) }, (_, i) => makeDevice(i));
const dist = new URL("../dist/", import.meta.url).pathname;
const openapi = new URL("../openapi.json", import.meta.url);
let signedIn = process.env.SIGNED_IN === "1";
let setupRequired = process.env.SETUP === "1";
const CSP =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const session = () => ({
  user: { id: uuid(), email: "ada@example.com", name: "Ada Brandt" },
  partner,
  organization,
  site: { id: sites[0].id, name: sites[0].name },
  role: "partner_admin",
  csrf_token: "dev",
  expires_at: new Date(Date.now() + 8 * 3_600_000).toISOString(),
});
const keys = [
  ["Main key", null, null, 34, false, "active"],
  ["Radiology roll-out", 6, 50, 12, true, "active"],
  ["Old key", -4, null, 8, false, "expired"],
  ["Trial", null, 5, 5, false, "used_up"],
  ["Lost laptop", null, null, 1, false, "revoked"],
].map(([name, days, max_uses, uses, requires_approval, state]) => ({
  id: uuid(),
  name,
  site: { id: sites[0].id, name: sites[0].name },
  created_at: new Date(Date.now() - 40 * 86_400_000).toISOString(),
  created_by: "ada@example.com",
  expires_at: days === null ? null : new Date(Date.now() + days * 86_400_000).toISOString(),
  max_uses,
  uses,
  requires_approval,
  state,
  revoked_at: state === "revoked" ? new Date(Date.now() - 86_400_000).toISOString() : null,
}));
let pending =
  process.env.DEVICES === "0"
    ? []
    : ["kiosk-07", "ward-laptop-12"].map((hostname) => ({
        id: uuid(),
        hostname,
        os_type: "linux",
        os_version: "Debian 12.8",
        architecture: "amd64",
        address: "198.51.100.23",
        enrollment_key: { id: keys[1].id, name: keys[1].name },
        requested_at: new Date(Date.now() - 600_000).toISOString(),
        serial_number: "SN552301",
      }));

const paged = (all, url, extra = {}) => {
  const limit = Number(url.searchParams.get("limit") ?? 50);
  const at = Number(url.searchParams.get("cursor") ?? 0);
  const more = at + limit < all.length;
  return {
    data: all.slice(at, at + limit),
    next_cursor: more ? String(at + limit) : null,
    has_more: more,
    total: all.length,
    ...extra,
  };
};
const problem = (code, status, title, detail, errors) => ({
  problem: true,
  status,
  body: {
    type: `urn:breeze:problem:${code}`,
    title,
    status,
    detail,
    request_id: "01JDEV7Q2N",
    errors,
  },
});

function listDevices(url) {
  const filter = url.searchParams.get("filter");
  if (filter?.includes("boom"))
    return problem(
      "validation",
      400,
      "The filter cannot be read",
      "At character 1: there is no field boom.",
      [{ field: "filter", message: "There is no field “boom”." }],
    );
  const found = devices.filter((d) => matches(d, filter, url.searchParams.get("q")));
  const sort = url.searchParams.get("sort") ?? "hostname";
  const key = sort.replace(/^-/, "");
  const sign = sort.startsWith("-") ? -1 : 1;
  found.sort(
    (a, b) =>
      (a[key] == null) - (b[key] == null) ||
      sign * (a[key] < b[key] ? -1 : a[key] > b[key] ? 1 : 0),
  );
  return paged(found, url, { facets: facetsOf(found) });
}
function overview() {
  const n = (test) => devices.filter(test).length;
  const by = (test, key, dir) =>
    devices
      .filter(test)
      .sort((a, b) => (a[key] < b[key] ? dir : -dir))
      .slice(0, 5);
  const now = Date.now();
  return {
    devices: {
      total: devices.length,
      online: n((d) => d.status === "online"),
      offline: n((d) => d.status === "offline"),
      pending: pending.length,
      warning: n((d) => d.health === "warning"),
      error: n((d) => d.health === "error"),
    },
    ingest: {
      heartbeats_per_s: devices.length / 60,
      samples_per_s: devices.length / 5,
      history: Array.from({ length: 60 }, (_, i) => [
        now - (60 - i) * 60_000,
        (devices.length / 60) * (0.9 + 0.2 * Math.abs(Math.sin(i / 7))),
      ]),
    },
    busiest: by((d) => d.cpu_percent != null, "cpu_percent", 1),
    newest: by(() => true, "enrolled_at", 1),
    offline_longest: by((d) => d.status === "offline", "last_seen_at", -1),
  };
}

function route(method, path, url, body, headers) {
  if (path === "/instance")
    return { name: "Breeze", version: "0.1.0", setup_required: setupRequired };
  if (path === "/setup") {
    setupRequired = false;
    signedIn = true;
    return session();
  }
  if (path === "/auth/login") {
    if (body.password === "wrong")
      return problem(
        "unauthenticated",
        401,
        "E-mail or password is wrong",
        "Check both and try again.",
      );
    signedIn = true;
    return session();
  }
  if (path === "/auth/logout") {
    signedIn = false;
    return null;
  }
  if (path === "/openapi.json") return JSON.parse(readFileSync(openapi, "utf8"));
  if (!signedIn)
    return problem("unauthenticated", 401, "You are not signed in", "Sign in to go on.");
  if (path === "/auth/session") return session();
  if (path === "/devices") return listDevices(url);
  if (path === "/device-fields")
    return {
      data: ["hostname", "status", "os_type", "cpu_percent", "tag"].map((name) => ({
        name,
        aliases: [],
        type: "text",
        description: `The ${name}`,
        operators: name === "tag" ? [":"] : ["=", "!=", ">", "<"],
        values: name === "status" ? ["online", "offline"] : [],
      })),
    };
  if (path === "/overview") return overview();
  if (path === "/status") return status(devices.length);
  if (path === "/ws-tickets") return { ticket: uuid(), expires_in: 30 };
  if (path === "/orgs/current") return organization;
  if (path === "/orgs/current/sites") return paged(sites, url);
  if (path === "/audit/logs") return paged(auditLog, url);
  if (path === "/pending-devices") return paged(pending, url);
  if (path.startsWith("/pending-devices/")) {
    pending = pending.filter((p) => !path.includes(p.id));
    return null;
  }
  if (path === "/enrollment-keys" && method === "GET") return paged(keys, url);
  if (path === "/enrollment-keys") {
    const key = {
      ...keys[0],
      id: uuid(),
      name: body.name,
      uses: 0,
      max_uses: body.max_uses ?? null,
      requires_approval: body.requires_approval ?? false,
      created_at: new Date().toISOString(),
      state: "active",
    };
    keys.unshift(key);
    setTimeout(() => {
      devices.push({
        ...makeDevice(devices.length),
        status: "online",
        enrolled_at: new Date().toISOString(),
        last_seen_at: new Date().toISOString(),
      });
      broadcast("devices", "changed", { devices: [devices.at(-1)] });
    }, 6_000);
    return {
      ...key,
      key: "brz1_7hQkYw3nPz5T8vKqX2mRb9JcL4dF6gS1",
      install: {
        linux:
          "curl -fsS --pinnedpubkey sha256//k0mPq3 https://breeze.example.com/install/linux.sh -o breeze.sh && echo '4f1c…9ab2  breeze.sh' | sha256sum -c && sudo sh breeze.sh brz1_7hQkYw3nPz5T8vKqX2mRb9JcL4dF6gS1",
      },
    };
  }
  if (path.startsWith("/enrollment-keys/")) {
    const k = keys.find((entry) => path.endsWith(entry.id));
    k.state = "revoked";
    k.revoked_at = new Date().toISOString();
    return null;
  }
  const [, , id, part, ...rest] = path.split("/");
  const device = path.startsWith("/devices/") ? devices.find((d) => d.id === id) : undefined;
  if (device === undefined) return problem("not_found", 404, "There is no such record", "");
  if (part === undefined && method !== "GET" && headers["if-match"] !== `"${device.version ?? 1}"`)
    return problem("precondition_failed", 412, "The device has changed", "");
  if (part === undefined && method === "PATCH") {
    Object.assign(device, body, { version: (device.version ?? 1) + 1 });
    return fullDevice(device);
  }
  if (part === undefined && method === "DELETE") {
    devices = devices.filter((d) => d !== device);
    return null;
  }
  if (part === undefined) return fullDevice(device);
  if (part === "hardware") return hardware(device);
  if (part === "network") return network(device);
  if (part === "software")
    return paged(
      software.filter((s) => s.name.includes(url.searchParams.get("q") ?? "")),
      url,
    );
  if (part === "metrics") return metrics(url);
  if (part === "events") return events(url);
  if (part === "inventory" && rest.length === 1) return versions(url);
  if (part === "inventory" && rest[2] === "changes") {
    const found = changes(rest[1]);
    if (found !== undefined) return found;
  }
  return problem("not_found", 404, "There is no such record", "");
}

const TYPES = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".css": "text/css",
  ".svg": "image/svg+xml",
  ".woff2": "font/woff2",
  ".json": "application/json",
};
function file(path, response) {
  const name = normalize(join(dist, path));
  const wanted = name.startsWith(dist) && extname(name) !== "" ? name : join(dist, "index.html");
  try {
    const data = readFileSync(wanted);
    response.writeHead(200, {
      "Content-Type": TYPES[extname(wanted)] ?? "application/octet-stream",
      "Content-Security-Policy": CSP,
    });
    response.end(data);
  } catch {
    response.writeHead(404).end();
  }
}

const server = createServer(async (request, response) => {
  const url = new URL(request.url, "http://localhost");
  if (!url.pathname.startsWith("/api/v1/")) return file(url.pathname, response);
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = chunks.length > 0 ? JSON.parse(Buffer.concat(chunks).toString()) : {};
  const result = route(
    request.method,
    url.pathname.slice("/api/v1".length),
    url,
    body,
    request.headers,
  );
  const delay = Number(process.env.DELAY ?? 30);
  await new Promise((done) => setTimeout(done, delay));
  if (result === null) return response.writeHead(204).end();
  const failed = result.problem === true;
  response.writeHead(failed ? result.status : request.method === "POST" ? 201 : 200, {
    "Content-Type": failed ? "application/problem+json" : "application/json",
    "X-Request-Id": "01JDEV7Q2N",
    ...(result.version === undefined ? {} : { ETag: `"${result.version}"` }),
  });
  response.end(JSON.stringify(failed ? result.body : result));
});

const sockets = new Set();
const wss = new WebSocketServer({ server });
wss.on("connection", (socket) => {
  socket.topics = new Set();
  sockets.add(socket);
  socket.on("close", () => sockets.delete(socket));
  socket.on("message", (data) => {
    const message = JSON.parse(String(data));
    message.subscribe?.forEach((t) => socket.topics.add(t));
    message.unsubscribe?.forEach((t) => socket.topics.delete(t));
    if (message.ping !== undefined) socket.send(JSON.stringify({ pong: message.ping }));
  });
});
function broadcast(topic, type, data) {
  for (const socket of sockets)
    if (socket.topics.has(topic)) socket.send(JSON.stringify({ topic, type, data }));
}
setInterval(() => {
  const changed = devices.filter(
    (d) => d.status === "online" && random() < Math.min(0.3, 20 / devices.length),
  );
  for (const d of changed) {
    d.cpu_percent = Math.round(random() ** 3 * 1000) / 10;
    d.last_seen_at = new Date().toISOString();
  }
  broadcast("devices", "changed", {
    devices: changed.map((d) => ({
      id: d.id,
      cpu_percent: d.cpu_percent,
      last_seen_at: d.last_seen_at,
    })),
  });
  const t = Date.now();
  for (const topic of new Set([...sockets].flatMap((s) => [...s.topics]))) {
    if (!topic.startsWith("device:")) continue;
    const names = [
      "cpu_percent",
      "ram_percent",
      "disk_percent",
      "net_in_bytes_per_s",
      "net_out_bytes_per_s",
      "load1",
    ];
    broadcast(topic, "sample", {
      t,
      values: Object.fromEntries(names.map((n) => [n, valueAt(n, t)])),
    });
  }
}, 1_000);
setInterval(() => broadcast("overview", "overview", overview()), 5_000);
setInterval(() => broadcast("status", "status", status(devices.length)), 5_000);
server.listen(PORT, "127.0.0.1", () => console.log(`fixture on http://127.0.0.1:${PORT}`));
