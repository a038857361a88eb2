// Takes a picture of every page at two widths and in both appearances, into shots/.
// BASE=http://127.0.0.1:8787 node dev/shots.mjs [part of a name]
import { mkdirSync } from "node:fs";
import { chromium } from "playwright-core";

const base = process.env.BASE ?? "http://127.0.0.1:8787";
const only = process.argv[2] ?? "";
const out = new URL("../shots/", import.meta.url).pathname;
mkdirSync(out, { recursive: true });

const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
const looks = [
  ["desktop-light", 1440, 900, "light"],
  ["desktop-dark", 1440, 900, "dark"],
  ["phone-light", 390, 844, "light"],
  ["phone-dark", 390, 844, "dark"],
];
const device = async (page) => {
  const answer = await page.request.get(`${base}/api/v1/devices?limit=1&sort=-cpu_percent`);
  const body = await answer.json();
  return body.data?.[0]?.id ?? "none";
};
const pages = {
  "sign-in": () => "/sign-in",
  setup: () => "/setup#token=abc",
  overview: () => "/",
  devices: () => "/devices",
  "devices-filter": () => "/devices?filter=os+%3D+linux+and+cpu_percent+%3E+5&sort=-cpu_percent",
  "devices-none": () => "/devices?q=nothing-like-this",
  "devices-error": () => "/devices?filter=boom+%3D+1",
  device: (id) => `/devices/${id}`,
  metrics: (id) => `/devices/${id}?tab=metrics&range=24h`,
  "metrics-30d": (id) => `/devices/${id}?tab=metrics&range=30d`,
  cores: (id) => `/devices/${id}?tab=metrics&range=24h&details=cpu.`,
  hardware: (id) => `/devices/${id}?tab=hardware`,
  software: (id) => `/devices/${id}?tab=software`,
  network: (id) => `/devices/${id}?tab=network`,
  connection: (id) => `/devices/${id}?tab=connection`,
  changes: (id) => `/devices/${id}?tab=changes`,
  "changes-network": (id) => `/devices/${id}?tab=changes&section=network`,
  events: (id) => `/devices/${id}?tab=events`,
  "events-presence": (id) => `/devices/${id}?tab=events&events=presence`,
  add: () => "/devices?add=1",
  keys: () => "/settings/enrolment-keys",
  pending: () => "/settings/pending-devices",
  api: () => "/settings/api",
  audit: () => "/audit",
  status: () => "/status",
  "not-found": () => "/nowhere",
};
for (const [look, width, height, scheme] of looks) {
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme: scheme,
    ignoreHTTPSErrors: true,
  });
  const page = await context.newPage();
  page.on(
    "console",
    (m) =>
      ["error", "warning"].includes(m.type()) && console.log(`${look} ${page.url()}: ${m.text()}`),
  );
  page.on("pageerror", (e) => console.log(`${look} ${page.url()}: ${e.message}`));
  await page.request.post(`${base}/api/v1/auth/login`, {
    data: { email: process.env.EMAIL ?? "ada@example.com", password: process.env.PASSWORD ?? "x" },
  });
  const id = await device(page);
  for (const [name, path] of Object.entries(pages)) {
    if (!`${look}-${name}`.includes(only)) continue;
    await page.goto("about:blank");
    await page.goto(base + path(id), { waitUntil: "load" });
    await page.waitForTimeout(Number(process.env.SETTLE ?? 900));
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    if (overflow > 0) console.log(`${look} ${name}: wider than the window by ${overflow}px`);
    await page.screenshot({ path: `${out}${look}-${name}.png` });
  }
  await context.close();
}
await browser.close();
