// The one way to the API: typed by the generated document, with CSRF, problems and entity tags.
import createClient, { type Middleware } from "openapi-fetch";
import { problemFrom, Problem } from "@/lib/api/problem";
import type { paths } from "@/lib/api/schema";

let csrfToken: string | null = null;

/** The token of the session, sent with everything that changes something. */
export function setCsrfToken(token: string | null) {
  csrfToken = token;
}

const SAFE = new Set(["GET", "HEAD", "OPTIONS"]);

const csrf: Middleware = {
  onRequest({ request }) {
    if (!SAFE.has(request.method) && csrfToken !== null) {
      request.headers.set("X-CSRF-Token", csrfToken);
    }
    return request;
  },
};

export const api = createClient<paths>({
  baseUrl: typeof location === "undefined" ? "http://localhost" : location.origin,
  credentials: "same-origin",
  // Looked up at each call, so that a test can replace it.
  fetch: (request) => globalThis.fetch(request),
});
api.use(csrf);

interface Answer<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

/** The body of a successful answer; throws a `Problem` otherwise. */
export async function unwrap<T>(call: Promise<Answer<T>>): Promise<T> {
  return (await unwrapTagged(call)).data;
}

export interface Tagged<T> {
  data: T;
  /** The entity tag to send back in `If-Match`. */
  etag: string;
}

/** As `unwrap`, with the entity tag that a later change must name. */
export async function unwrapTagged<T>(call: Promise<Answer<T>>): Promise<Tagged<T>> {
  const { data, error, response } = await call;
  if (!response.ok) throw problemFrom(response, error);
  return { data: data as T, etag: response.headers.get("ETag") ?? "" };
}

/** A key that makes a repeated POST create one thing only. */
export function idempotencyKey(): string {
  return crypto.randomUUID();
}

export function isUnauthenticated(error: unknown): boolean {
  return error instanceof Problem && error.status === 401;
}
