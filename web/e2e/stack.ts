// What every browser test starts from: the running stack, a person signed in, and a page that fails
// the test when it breaks the content security policy, asks another host, or throws.
import { existsSync, readFileSync } from "node:fs";
import {
  test as base,
  expect,
  type APIRequestContext,
  type BrowserContext,
  type Page,
} from "@playwright/test";

interface Ready {
  dashboard: string;
  api: string;
  setup_url: string | null;
  enrollment_key: string;
  relay: unknown;
}

export const PERSON = {
  name: "Ada Brandt",
  email: "ada@example.com",
  password: "harbour tapestry lantern quill",
};
/** Of the name that an agent sends when it means harm. */
export const HOSTILE = "<img src=x onerror=alert(1)>";

export function ready(): Ready {
  const file = process.env.BREEZE_READY_FILE;
  if (file === undefined || !existsSync(file)) {
    throw new Error("Set BREEZE_READY_FILE to the file that `breeze up --ready-file` wrote.");
  }
  return JSON.parse(readFileSync(file, "utf8")) as Ready;
}

/** The address of a page of the dashboard. */
export function at(path: string): string {
  return new URL(path, ready().dashboard).href;
}

/** Watches a page; the returned function says what went wrong, if anything. */
export function watch(page: Page): () => string[] {
  const faults: string[] = [];
  const { origin } = new URL(ready().dashboard);
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (["data:", "blob:", "about:"].includes(url.protocol)) return;
    if (url.origin !== origin) faults.push(`asked another host: ${request.url()}`);
  });
  page.on("websocket", (socket) => {
    if (new URL(socket.url()).host !== new URL(origin).host)
      faults.push(`socket to ${socket.url()}`);
  });
  page.on("pageerror", (error) => faults.push(`threw: ${error.message}`));
  page.on("dialog", (dialog) => {
    faults.push(`opened a dialog: ${dialog.message()}`);
    void dialog.dismiss();
  });
  page.on("console", (message) => {
    if (/content security policy|refused to/i.test(message.text())) faults.push(message.text());
  });
  return () => faults;
}

interface SignedIn {
  csrf: string;
  cookies: Awaited<ReturnType<BrowserContext["cookies"]>>;
}

export const test = base.extend<{ person: Page; csrf: string }, { session: SignedIn }>({
  /** One session for all tests: signing in is throttled, as it should be. */
  session: [
    async ({ browser }, use) => {
      const context = await browser.newContext({ ignoreHTTPSErrors: true });
      const { csrf } = await signIn(context.request);
      const cookies = await context.cookies();
      await context.close();
      await use({ csrf, cookies });
    },
    { scope: "worker" },
  ],
  csrf: ({ session }, use) => use(session.csrf),
  page: async ({ page }, use) => {
    const faults = watch(page);
    await use(page);
    expect(faults()).toEqual([]);
  },
  /** A page of somebody signed in. */
  person: async ({ page, session }, use) => {
    await page.context().addCookies(session.cookies);
    await use(page);
  },
});

async function signIn(request: APIRequestContext): Promise<{ csrf: string }> {
  const answer = await request.post(at("/api/v1/auth/login"), {
    data: { email: PERSON.email, password: PERSON.password },
    headers: { Origin: new URL(ready().dashboard).origin },
  });
  expect(answer.status(), await answer.text()).toBe(200);
  const session = (await answer.json()) as { csrf_token: string };
  return { csrf: session.csrf_token };
}

export interface Row {
  id: string;
  hostname: string;
  display_name: string | null;
  status: string;
}

/** The devices as the API lists them. */
export async function devices(request: APIRequestContext): Promise<Row[]> {
  const answer = await request.get(at("/api/v1/devices?limit=100"));
  expect(answer.ok()).toBe(true);
  return ((await answer.json()) as { data: Row[] }).data;
}

/** The first device, waited for: its agent may still be on its way. */
export async function firstDevice(request: APIRequestContext): Promise<Row> {
  let found: Row | undefined;
  await expect
    .poll(
      async () => {
        found = (await devices(request)).find((row) => row.status === "online");
        return found !== undefined;
      },
      { timeout: 30_000, message: "no device is online: start a breeze-agent with the stack" },
    )
    .toBe(true);
  return found as Row;
}

export { expect };
