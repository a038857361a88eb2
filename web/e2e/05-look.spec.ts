// Phone width, dark, reduced motion, keyboard focus, and contrast of the tokens.
import { at, expect, firstDevice, test } from "./stack";

const PAGES = [
  "/",
  "/devices",
  "/audit",
  "/settings/enrolment-keys",
  "/settings/pending-devices",
  "/settings/api",
  "/status",
];

for (const width of [360, 390]) {
  test(`nothing is wider than a phone of ${width} px`, async ({ person }) => {
    const device = await firstDevice(person.request);
    await person.setViewportSize({ width, height: 800 });
    const tabs = ["overview", "metrics", "hardware", "software", "network", "connection"];
    for (const path of [...PAGES, ...tabs.map((tab) => `/devices/${device.id}?tab=${tab}`)]) {
      await person.goto(at(path));
      await expect(person.getByRole("heading", { level: 1 })).toBeVisible();
      const excess = await person.evaluate(() => {
        const main = document.querySelector("main");
        return Math.max(
          document.documentElement.scrollWidth - innerWidth,
          (main?.scrollWidth ?? 0) - (main?.clientWidth ?? 0),
        );
      });
      expect(excess, path).toBeLessThanOrEqual(0);
    }
  });
}

test("the menu of a phone is a drawer", async ({ person }) => {
  await person.setViewportSize({ width: 390, height: 844 });
  await person.goto(at("/"));
  await person.getByRole("button", { name: "Open the menu" }).click();
  await person.getByRole("dialog").getByRole("link", { name: "Devices", exact: true }).click();
  await expect(person.getByRole("dialog")).toBeHidden();
  await expect(person.getByRole("heading", { name: /Devices/ })).toBeVisible();
});

test("dark is chosen, kept, and there before the first paint", async ({ person }) => {
  await person.goto(at("/"));
  await person.getByRole("button", { name: /^You:/ }).click();
  await person.getByRole("menuitemcheckbox", { name: "Dark" }).click();
  await expect(person.locator("html")).toHaveAttribute("data-theme", "dark");
  await person.reload({ waitUntil: "commit" });
  await expect(person.locator("html")).toHaveAttribute("data-theme", "dark");
  const background = await person.evaluate(() => getComputedStyle(document.body).backgroundColor);
  expect(background).toBe("rgb(14, 17, 22)");
});

for (const colorScheme of ["light", "dark"] as const) {
  test(`text is readable on its ground (${colorScheme})`, async ({ person }) => {
    await person.emulateMedia({ colorScheme });
    await person.goto(at("/"));
    await expect(person.getByRole("heading", { level: 1 })).toBeVisible();
    const low = await person.evaluate(() => {
      const style = getComputedStyle(document.documentElement);
      const luminance = (name: string) => {
        const hex = style.getPropertyValue(name).trim();
        const [r = 0, g = 0, b = 0] = [1, 3, 5].map((i) => {
          const c = parseInt(hex.slice(i, i + 2), 16) / 255;
          return c <= 0.040_45 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const contrast = (a: string, b: string) => {
        const [x, y] = [luminance(a), luminance(b)];
        return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
      };
      const texts = [
        "--text",
        "--text-muted",
        "--text-faint",
        "--accent-ink",
        "--status-online",
        "--status-offline",
        "--status-warning",
        "--status-critical",
        "--status-maintenance",
      ];
      const grounds = ["--page", "--surface", "--surface-2"];
      const pairs = [
        ...texts.flatMap((text) => grounds.map((ground) => [text, ground] as const)),
        ["--accent-text", "--accent"] as const,
        ["--accent-ink", "--accent-soft"] as const,
        ["--status-warning", "--warning-soft"] as const,
        ["--status-critical", "--critical-soft"] as const,
        ["--status-online", "--online-soft"] as const,
      ];
      return pairs
        .map(([a, b]) => ({ a, b, ratio: contrast(a, b) }))
        .filter(({ ratio }) => ratio < 4.5);
    });
    expect(low).toEqual([]);
  });
}

test("every stop of the tab key is visible", async ({ person }) => {
  await person.goto(at("/devices"));
  await expect(person.getByRole("heading", { name: /Devices/ })).toBeVisible();
  for (let i = 0; i < 14; i += 1) {
    await person.keyboard.press("Tab");
    const seen = await person.evaluate(() => {
      const element = document.activeElement;
      if (element === null || element === document.body) return "nothing";
      const box = element.getBoundingClientRect();
      const style = getComputedStyle(element);
      const ring = (e: Element | null) => {
        if (e === null) return false;
        const s = getComputedStyle(e);
        return (s.outlineStyle !== "none" && s.outlineWidth !== "0px") || s.boxShadow !== "none";
      };
      if (box.width === 0 || style.visibility === "hidden")
        return `hidden: ${element.outerHTML.slice(0, 80)}`;
      return ring(element) || ring(element.parentElement)
        ? "ok"
        : `no ring: ${element.outerHTML.slice(0, 120)}`;
    });
    expect(seen).toBe("ok");
  }
});
