// Keys, adding a device, status, audit, the API's documentation.
import { at, expect, firstDevice, test } from "./stack";

test("adding a device gives a line to paste and waits", async ({ person }) => {
  await person.goto(at("/"));
  await person.getByRole("button", { name: "Add a device" }).first().click();
  await expect(person).toHaveURL(/add=1/);
  const dialog = person.getByRole("dialog", { name: "Add a device" });
  await dialog.getByLabel("Devices at most").fill("many");
  await dialog.getByRole("button", { name: "Make the line" }).click();
  await expect(dialog.getByText(/whole number/)).toBeVisible();
  await dialog.getByLabel("Devices at most").fill("3");
  await dialog.getByRole("button", { name: "Make the line" }).click();
  const line = dialog.getByTestId("install-line");
  await expect(line).toContainText("brz1_");
  await expect(line).toContainText("/install/linux.sh");
  expect(await line.textContent()).not.toMatch(/curl [^|&]*(-k|--insecure)\b/);
  await expect(dialog.getByText("Waiting for the device")).toBeVisible();
  await dialog.getByRole("button", { name: "Done" }).click();
  await expect(dialog).toBeHidden();
});

test("a key is created, shown once, and revoked", async ({ person }) => {
  await person.goto(at("/settings/enrolment-keys"));
  await person.getByRole("button", { name: "Create a key" }).first().click();
  const name = `Roll-out ${Date.now()}`;
  await person.getByLabel("Name").fill(name);
  await person.getByRole("button", { name: "Create the key" }).click();
  await expect(person.getByTestId("install-line")).toContainText("brz1_");
  await person.getByRole("button", { name: "I have copied it" }).click();
  const row = person.getByRole("row").filter({ hasText: name });
  await expect(row).toContainText("Active");
  await row.getByRole("button", { name: `Revoke ${name}` }).click();
  await person.getByRole("button", { name: "Revoke the key" }).click();
  await expect(row).toContainText("Revoked");
  await expect(person.getByText("brz1_")).toHaveCount(0);
});

test("the status page shows every role and the lanes", async ({ person }) => {
  await firstDevice(person.request);
  await person.goto(at("/status"));
  for (const role of ["Relay", "Collector", "Control plane"]) {
    await expect(person.getByRole("heading", { name: role, exact: true })).toBeVisible();
  }
  await expect(person.getByText("Everything works")).toBeVisible();
  await expect(person.getByRole("heading", { name: "Lanes" })).toBeVisible();
  await expect(person.getByRole("heading", { name: "Storage" })).toBeVisible();
});

test("the audit log holds what was done", async ({ person }) => {
  await person.goto(at("/audit"));
  await expect(person.getByRole("row").nth(1)).toBeVisible();
  await person.getByRole("row").nth(1).getByRole("cell").nth(2).click();
  await expect(person.getByRole("dialog")).toContainText("Request id");
});

test("the API documentation shows the server's own document", async ({ person }) => {
  await person.goto(at("/settings/api"));
  await person.getByRole("searchbox", { name: "Search endpoints" }).fill("GET devices metrics");
  await person.getByRole("navigation", { name: "Endpoints" }).getByRole("link").first().click();
  await expect(person.getByText("/api/v1/devices/{id}/metrics").first()).toBeVisible();
  await expect(person.getByRole("heading", { name: "Parameters" })).toBeVisible();
});

test("an unknown address says so", async ({ person }) => {
  await person.goto(at("/no/such/page"));
  await expect(person.getByRole("heading", { name: "There is no page here" })).toBeVisible();
});
