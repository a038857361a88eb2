// A device: live graphs, every tab, editing, two people at once.
import { at, expect, firstDevice, test } from "./stack";

test("live graphs move while one looks", async ({ person }) => {
  const device = await firstDevice(person.request);
  const samples: number[] = [];
  person.on("websocket", (socket) =>
    socket.on("framereceived", ({ payload }) => {
      const message = JSON.parse(String(payload)) as { type?: string; data?: { t?: number } };
      if (message.type === "sample" && message.data?.t !== undefined) samples.push(message.data.t);
    }),
  );
  await person.goto(at(`/devices/${device.id}`));
  const processor = person.getByRole("figure", { name: /^Processor/ });
  await expect(processor.locator("canvas")).toBeVisible();
  await expect(processor).toHaveAccessibleName(/Used \d+(\.\d+)? %/);
  await expect.poll(() => samples.length, { timeout: 30_000 }).toBeGreaterThanOrEqual(3);
  const gaps = samples.slice(1).map((t, i) => t - (samples[i] ?? 0));
  expect(Math.min(...gaps)).toBeLessThan(5_000);
});

test("every tab shows what the agent reported", async ({ person }) => {
  const device = await firstDevice(person.request);
  await person.goto(at(`/devices/${device.id}`));
  const tabs = person.getByRole("navigation", { name: "Device" });
  await tabs.getByRole("link", { name: "Hardware" }).click();
  await expect(person).toHaveURL(/tab=hardware/);
  await expect(person.getByRole("heading", { name: /File systems/ })).toBeVisible();
  await tabs.getByRole("link", { name: "Network" }).click();
  await expect(person.getByRole("heading", { name: "Reach" })).toBeVisible();
  await expect(
    person
      .getByText("127.0.0.1")
      .or(person.getByText(/\d+\.\d+\.\d+\.\d+/))
      .first(),
  ).toBeVisible();
  await tabs.getByRole("link", { name: "Software" }).click();
  await expect(person.getByText(/\d+ programs?/)).toBeVisible();
  await person.getByRole("searchbox", { name: "Search software" }).fill("bash");
  await expect(person.getByRole("row").filter({ hasText: "bash" }).first()).toBeVisible();
  await expect(person).toHaveURL(/find=bash/);
  await tabs.getByRole("link", { name: "Connection" }).click();
  await expect(person.getByText(/QUIC|WebSocket/).first()).toBeVisible();
  await expect(person.getByText(/every/).first()).toBeVisible();
});

test("metrics by range, with a zoom that the URL holds", async ({ person }) => {
  const device = await firstDevice(person.request);
  await person.goto(at(`/devices/${device.id}?tab=metrics`));
  const graph = person.getByRole("figure", { name: /^Processor/ });
  await expect(graph.locator("canvas")).toBeVisible();
  await person.getByRole("group", { name: "Range" }).getByRole("button", { name: "24 h" }).click();
  await expect(person).toHaveURL(/range=24h/);
  await expect(graph.locator("canvas")).toBeVisible();
  // The graph is drawn anew when its points become averages.
  await expect(person.getByText(/with the lowest and highest/)).toBeVisible();
  const area = graph.locator(".u-over");
  await area.scrollIntoViewIfNeeded();
  const box = await area.boundingBox();
  if (box === null) throw new Error("the graph has no area");
  await person.mouse.move(box.x + box.width * 0.5, box.y + 30);
  await person.mouse.down();
  await person.mouse.move(box.x + box.width * 0.9, box.y + 30, { steps: 5 });
  await person.mouse.up();
  await expect(person).toHaveURL(/from=\d+&to=\d+/);
  await person.getByRole("button", { name: "Back to the range" }).click();
  await expect(person).not.toHaveURL(/from=/);
});

test("a name and tags are changed, and a change by somebody else is noticed", async ({
  person,
  csrf,
}) => {
  const device = await firstDevice(person.request);
  const url = at(`/api/v1/devices/${device.id}`);
  const change = async (data: object) => {
    const etag = (await person.request.get(url)).headers().etag ?? "";
    const answer = await person.request.patch(url, {
      data,
      headers: { "If-Match": etag, "X-CSRF-Token": csrf, Origin: new URL(url).origin },
    });
    expect(answer.status(), await answer.text()).toBe(200);
  };
  await person.goto(at(`/devices/${device.id}`));
  await person.getByRole("button", { name: "Edit" }).click();
  await person.getByLabel("Name").fill("Front desk");
  await person.getByLabel("Tags").fill("kiosk,");
  await change({ tags: ["meanwhile"] });
  await person.getByRole("button", { name: "Save" }).click();
  await expect(person.getByRole("alert")).toContainText("Reload");
  await person.getByRole("button", { name: /Reload it/ }).click();
  await expect(person.getByLabel("Name")).toHaveValue("Front desk");
  await person.getByRole("button", { name: "Save" }).click();
  await expect(person.getByRole("heading", { level: 1 })).toHaveText("Front desk");
  await expect(person.getByText("kiosk").first()).toBeVisible();
  await change({ display_name: null, tags: [] });
});

test("what happened and what changed is told day by day", async ({ person }) => {
  const device = await firstDevice(person.request);
  await person.goto(at(`/devices/${device.id}?tab=events`));
  await expect(person.getByText("Online for the first time")).toBeVisible();
  await expect(person.getByText(/Connected from/).first()).toBeVisible();
  await person.getByRole("link", { name: "Online and offline" }).click();
  await expect(person).toHaveURL(/events=presence/);
  await expect(person.getByText(/Connected from/)).toHaveCount(0);
  await expect(person.getByText("Online for the first time")).toBeVisible();

  await person.getByRole("link", { name: "Changes" }).click();
  await person.getByRole("link", { name: "Software", exact: true }).last().click();
  await expect(person).toHaveURL(/section=software/);
  const first = person.getByRole("button", { name: /Software reported for the first time/ });
  await first.click();
  await expect(first).toHaveAttribute("aria-expanded", "true");
  await expect(person.getByText("there is nothing to compare it with")).toBeVisible();
});

test("a device that is not there says so", async ({ person }) => {
  await person.goto(at("/devices/0193591e-7a4c-7cc1-9d2b-3f1f0b0f6a11"));
  await expect(person.getByRole("heading", { name: "There is no such device" })).toBeVisible();
});
