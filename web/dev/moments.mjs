// Pictures of what only shows after a click or a key: dialogs, menus, the palette, the bulk bar.
// BASE=http://127.0.0.1:8787 node dev/moments.mjs [light|dark] [part of a name]
import { mkdirSync } from "node:fs";
import { chromium } from "playwright-core";

const base = process.env.BASE ?? "http://127.0.0.1:8787";
const scheme = process.argv[2] === "dark" ? "dark" : "light";
const only = process.argv[3] ?? "";
const out = new URL("../shots/", import.meta.url).pathname;
mkdirSync(out, { recursive: true });
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu"],
});

async function take(name, viewport, path, steps) {
  if (!name.includes(only)) return;
  const context = await browser.newContext({ viewport, colorScheme: scheme });
  const page = await context.newPage();
  page.on("pageerror", (e) => console.log(`${name}: ${e.message}`));
  page.on("console", (m) => m.type() === "error" && console.log(`${name}: ${m.text()}`));
  await page.request.post(`${base}/api/v1/auth/login`, {
    data: { email: "ada@example.com", password: process.env.PASSWORD ?? "x" },
  });
  try {
    await page.goto(base + path);
    await page.waitForTimeout(700);
    await steps(page);
    await page.waitForTimeout(350);
  } catch (error) {
    console.log(`${name}: ${error.message.split("\n")[0]}`);
  }
  await page.screenshot({ path: `${out}moment-${scheme}-${name}.png` });
  await context.close();
}
const wide = { width: 1440, height: 900 };
const phone = { width: 390, height: 844 };

await take("palette", wide, "/", async (p) => {
  await p.keyboard.press("Control+k");
  await p.keyboard.type("web");
});
await take("bulk-peek", wide, "/devices", async (p) => {
  for (const key of ["j", "j", "x", "j", "x", " "]) await p.keyboard.press(key);
});
await take("filter-text", wide, "/devices", async (p) => {
  await p.getByRole("button", { name: "Filter", exact: true }).click();
  await p.getByRole("combobox", { name: "Filter" }).fill("status = online and cp");
});
await take("facet", wide, "/devices", async (p) => p.getByRole("button", { name: "Tags" }).click());
await take("columns", wide, "/devices", async (p) =>
  p.getByRole("button", { name: "Choose columns" }).click(),
);
await take("decommission", wide, "/devices", async (p) => {
  for (const key of ["j", "x", "j", "j", "x"]) await p.keyboard.press(key);
  await p.getByRole("button", { name: "Decommission" }).click();
});
await take("tags", wide, "/devices", async (p) => {
  for (const key of ["j", "x", "j", "X"]) await p.keyboard.press(key);
  await p
    .getByRole("region", { name: "Selected devices" })
    .getByRole("button", { name: "Tags" })
    .click();
});
await take("edit", wide, "/devices", async (p) => {
  await p.keyboard.press("j");
  await p.keyboard.press("Enter");
  await p.getByRole("button", { name: "Edit" }).click();
});
await take("line", wide, "/?add=1", async (p) =>
  p.getByRole("button", { name: "Make the line" }).click(),
);
await take("scope", wide, "/", async (p) => p.getByRole("button", { name: /^Scope/ }).click());
await take("person", wide, "/", async (p) => p.getByRole("button", { name: /^You/ }).click());
await take("audit-entry", wide, "/audit", async (p) => {
  await p.keyboard.press("j");
  await p.keyboard.press("Enter");
});
await take("hover", wide, "/devices", async (p) => {
  await p.keyboard.press("j");
  await p.keyboard.press("Enter");
  await p.getByRole("link", { name: "Metrics" }).click();
  await p.getByRole("button", { name: "24 h" }).click();
  await p.waitForTimeout(700);
  const box = await p.locator(".u-over").first().boundingBox();
  await p.mouse.move(box.x + box.width * 0.4, box.y + 50);
});
await take("phone-drawer", phone, "/", async (p) =>
  p.getByRole("button", { name: "Open the menu" }).click(),
);
await take("phone-line", phone, "/?add=1", async (p) =>
  p.getByRole("button", { name: "Make the line" }).click(),
);
await take("phone-peek", phone, "/devices", async (p) => p.getByRole("checkbox").nth(1).click());
await take("setup", wide, "/setup#token=abc", async (p) => {
  await p.getByLabel("Your name").fill("Ada");
  await p.getByLabel("Password").fill("tapestry lamp");
});
await browser.close();
