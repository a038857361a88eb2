// The device list: live, sorted, searched, filtered, by keyboard, as CSV.
import { readFileSync } from "node:fs";
import { at, devices, expect, firstDevice, HOSTILE, test } from "./stack";

test("the first device is there, online and live", async ({ person }) => {
  const device = await firstDevice(person.request);
  await person.goto(at("/"));
  await expect(person.locator('[data-live="live"]')).toBeVisible();
  await expect(person.locator('[data-count="online"]')).not.toHaveText("0");
  await person
    .getByRole("navigation", { name: "Main" })
    .getByRole("link", { name: "Devices", exact: true })
    .click();
  const row = person.getByRole("row").filter({ hasText: device.display_name ?? device.hostname });
  await expect(row).toContainText("Online");
  await expect(row).toContainText("%");
});

test("sort, search and filter live in the URL and survive back and reload", async ({ person }) => {
  const device = await firstDevice(person.request);
  const name = device.display_name ?? device.hostname;
  await person.goto(at("/devices"));
  await person.getByRole("button", { name: "CPU" }).click();
  await expect(person).toHaveURL(/sort=-cpu_percent/);
  await expect(person.locator("th", { hasText: "CPU" })).toHaveAttribute("aria-sort", "descending");
  await person.keyboard.press("/");
  await expect(person.getByRole("searchbox", { name: "Search devices" })).toBeFocused();
  await person.keyboard.type("no-machine-is-called-this");
  await expect(person).toHaveURL(/q=no-machine/);
  await expect(person.getByRole("heading", { name: "No device matches" })).toBeVisible();
  await person.getByRole("button", { name: "Show all devices" }).click();
  await expect(person.getByRole("row").filter({ hasText: name })).toBeVisible();

  await person.getByRole("button", { name: "Status" }).first().click();
  await person.getByRole("checkbox", { name: /Online/ }).check();
  await person.keyboard.press("Escape");
  await expect(person).toHaveURL(/filter=status/);
  await expect(person.getByRole("list", { name: "Filter" })).toContainText("status = online");
  await person.reload();
  await expect(person.getByRole("list", { name: "Filter" })).toContainText("status = online");
  await expect(person.getByRole("row").filter({ hasText: name })).toBeVisible();
  await person.goBack();
  await expect(person).not.toHaveURL(/filter=/);
});

test("a filter as text is completed, checked before it is sent, and refused in words by the server", async ({
  person,
}) => {
  await firstDevice(person.request);
  await person.goto(at("/devices"));
  await person.getByRole("button", { name: "Filter", exact: true }).click();
  const text = person.getByRole("combobox", { name: "Filter" });
  await text.fill("os = linux and (");
  await expect(person.getByText(/At character/)).toBeVisible();
  await text.fill("os = linux and cpu_threads >= 1");
  await text.press("Enter");
  await expect(person).toHaveURL(/cpu_threads/);
  await expect(person.getByTestId("total")).not.toHaveText("0");
  await text.fill("no_such_field = 1");
  await text.press("Enter");
  await expect(person.getByRole("alert")).toContainText(/no_such_field/);
});

test("the keyboard moves, chooses, peeks and opens", async ({ person }) => {
  await firstDevice(person.request);
  await person.goto(at("/devices"));
  await expect(person.getByRole("row").nth(1)).toContainText("Online");
  await person.keyboard.press("j");
  await expect(person.locator("tr[data-active]")).toHaveCount(1);
  await person.keyboard.press("x");
  await expect(person.getByRole("region", { name: "Selected devices" })).toContainText(
    "1 device selected",
  );
  await person.keyboard.press(" ");
  await expect(person.getByRole("complementary", { name: /Peek/ })).toBeVisible();
  await expect(person).toHaveURL(/peek=/);
  await person.keyboard.press("Escape");
  await expect(person.getByRole("complementary", { name: /Peek/ })).toBeHidden();
  await person.keyboard.press("Enter");
  await expect(person).toHaveURL(/devices\/[0-9a-f-]{36}/);
});

test("the palette finds devices, pages and actions", async ({ person }) => {
  const device = await firstDevice(person.request);
  await person.goto(at("/"));
  await expect(person.getByRole("heading", { name: "Overview" })).toBeVisible();
  await person.keyboard.press("Control+k");
  const field = person.getByRole("combobox", { name: /Find a device/ });
  await expect(field).toBeFocused();
  await field.fill(device.hostname);
  await expect(person.getByRole("option").first()).toContainText(
    device.display_name ?? device.hostname,
  );
  await field.press("Enter");
  await expect(person).toHaveURL(new RegExp(device.id));
  await person.keyboard.press("Control+k");
  await person.getByRole("combobox", { name: /Find a device/ }).fill("system status");
  await person.keyboard.press("Enter");
  await expect(person.getByRole("heading", { name: "System status" })).toBeVisible();
});

test("CSV holds everything that matches", async ({ person }) => {
  await firstDevice(person.request);
  await person.goto(at("/devices"));
  const saved = person.waitForEvent("download");
  await person.getByRole("button", { name: "CSV" }).click();
  const file = await (await saved).path();
  const lines = readFileSync(file, "utf8").trim().split("\r\n");
  expect(lines[0]).toContain("Name,Status");
  expect(lines.length - 1).toBe((await devices(person.request)).length);
});

test("a name of HTML is text everywhere", async ({ person, csrf }) => {
  const device = await firstDevice(person.request);
  const url = at(`/api/v1/devices/${device.id}`);
  const rename = async (display_name: string | null) => {
    const { origin } = new URL(url);
    const etag = (await person.request.get(url)).headers().etag ?? "";
    const answer = await person.request.patch(url, {
      data: { display_name },
      headers: { "If-Match": etag, "X-CSRF-Token": csrf, Origin: origin },
    });
    expect(answer.status(), await answer.text()).toBe(200);
  };
  await rename(HOSTILE);
  try {
    await person.goto(at("/devices"));
    await expect(person.getByRole("link", { name: HOSTILE })).toBeVisible();
    await person.getByRole("link", { name: HOSTILE }).click();
    await expect(person.getByRole("heading", { level: 1 })).toHaveText(HOSTILE);
    await person.keyboard.press("Control+k");
    await person.getByRole("combobox", { name: /Find a device/ }).fill(device.hostname);
    await expect(person.getByRole("option", { name: new RegExp("onerror") })).toBeVisible();
    expect(await person.locator("img").count()).toBe(0);
  } finally {
    await rename(device.display_name);
  }
});
