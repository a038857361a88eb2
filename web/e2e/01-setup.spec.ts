// The first minutes: the set-up link, the password in words, signing out and in.
import { at, expect, PERSON, ready, test } from "./stack";

test("the set-up link makes the first user", async ({ page }) => {
  const { setup_url } = ready();
  const instance = (await (await page.request.get(at("/api/v1/instance"))).json()) as {
    setup_required: boolean;
  };
  test.skip(setup_url === null || !instance.setup_required, "this stack is set up already");
  await page.goto(setup_url ?? "");
  await expect(page.getByRole("heading", { name: "Set up Breeze" })).toBeVisible();
  await page.getByLabel("Your name").fill(PERSON.name);
  await page.getByLabel("E-mail").fill(PERSON.email);
  await page.getByLabel("Password").fill("short");
  await expect(page.getByText(/Too short: 7 more to go/)).toBeVisible();
  await page.getByRole("button", { name: "Create and sign in" }).click();
  await expect(page.getByText("Use at least 12 characters.")).toBeVisible();
  await page.getByLabel("Password").fill(PERSON.password);
  await expect(page.getByText("Strong.")).toBeVisible();
  await page.getByLabel("Organization").fill("City Hospital");
  await page.getByLabel("First site").fill("Main building");
  await page.getByRole("button", { name: "Create and sign in" }).click();
  await expect(page.getByRole("heading", { name: "Overview" })).toBeVisible();
  await expect(page.getByRole("button", { name: /City Hospital/ })).toBeVisible();
});

test("the set-up link works once", async ({ page }) => {
  await page.goto(ready().setup_url ?? at("/setup#token=used"));
  await expect(page.getByRole("heading", { name: "Already set up" })).toBeVisible();
});

test("a wrong password says so and keeps the e-mail; a right one goes on where one was going", async ({
  page,
}) => {
  await page.goto(at("/audit"));
  await expect(page.getByRole("heading", { name: "Sign in" })).toBeVisible();
  await page.getByLabel("E-mail").fill(PERSON.email);
  await page.getByLabel("Password").fill("not the password at all");
  await page.getByLabel("Password").press("Enter");
  await expect(page.getByRole("alert").first()).toBeVisible();
  await expect(page.getByLabel("E-mail")).toHaveValue(PERSON.email);
  await page.getByLabel("Password").fill(PERSON.password);
  await page.getByLabel("Password").press("Enter");
  await expect(page).toHaveURL(at("/audit"));
  await expect(page.getByRole("heading", { name: /Audit/ })).toBeVisible();
  await page.getByRole("button", { name: /^You:/ }).click();
  await page.getByRole("menuitem", { name: "Sign out" }).click();
  await expect(page.getByRole("heading", { name: "Sign in" })).toBeVisible();
  await page.goto(at("/"));
  await expect(page.getByRole("heading", { name: "Sign in" })).toBeVisible();
});

test("a session that ends in the middle keeps the page and what was typed", async ({ person }) => {
  await person.goto(at("/settings/enrolment-keys"));
  await person.getByRole("button", { name: "Create a key" }).first().click();
  await person.getByLabel("Name").fill("Typed before the session ended");
  await person.context().clearCookies();
  await person.getByRole("button", { name: "Create the key" }).click();
  await expect(person.getByRole("heading", { name: "Your session has ended" })).toBeVisible();
  await person.getByLabel("Password").fill(PERSON.password);
  await person.getByRole("button", { name: "Sign in" }).click();
  await expect(person.getByRole("heading", { name: "Your session has ended" })).toBeHidden();
  await expect(person.getByLabel("Name")).toHaveValue("Typed before the session ended");
  await expect(person).toHaveURL(at("/settings/enrolment-keys"));
});
