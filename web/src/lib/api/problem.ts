// What went wrong, as the API says it (RFC 9457), and what a person can do about it.

export interface FieldError {
  field: string;
  message: string;
}

/** An error answer of the API, or the lack of an answer (status 0). */
export class Problem extends Error {
  readonly code: string;
  readonly status: number;
  readonly title: string;
  readonly detail: string;
  readonly requestId: string | null;
  readonly errors: readonly FieldError[];
  /** Seconds to wait before another try, where the server said so. */
  readonly retryAfter: number | null;

  constructor(init: {
    code: string;
    status: number;
    title: string;
    detail?: string;
    requestId?: string | null;
    errors?: readonly FieldError[];
    retryAfter?: number | null;
  }) {
    super(init.detail ?? init.title);
    this.name = "Problem";
    this.code = init.code;
    this.status = init.status;
    this.title = init.title;
    this.detail = init.detail ?? "";
    this.requestId = init.requestId ?? null;
    this.errors = init.errors ?? [];
    this.retryAfter = init.retryAfter ?? null;
  }
}

const PREFIX = "urn:breeze:problem:";

function text(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}

function fieldErrors(value: unknown): FieldError[] {
  if (!Array.isArray(value)) return [];
  return value.flatMap((entry: unknown) => {
    if (typeof entry !== "object" || entry === null) return [];
    const { field, message } = entry as Record<string, unknown>;
    return typeof field === "string" && typeof message === "string" ? [{ field, message }] : [];
  });
}

/** Reads a problem from an answer; a proxy's HTML page becomes a problem too. */
export function problemFrom(response: Response, body: unknown): Problem {
  const fields = typeof body === "object" && body !== null ? (body as Record<string, unknown>) : {};
  const type = text(fields.type) ?? "";
  const wait = Number(response.headers.get("Retry-After"));
  return new Problem({
    code: type.startsWith(PREFIX) ? type.slice(PREFIX.length) : "unknown",
    status: response.status,
    title: text(fields.title) ?? `The server answered ${response.status}`,
    detail: text(fields.detail) ?? "",
    requestId: text(fields.request_id) ?? response.headers.get("X-Request-Id"),
    errors: fieldErrors(fields.errors),
    retryAfter: Number.isFinite(wait) && wait > 0 ? wait : null,
  });
}

/** Any thrown value as a problem, so that every failure is shown the same way. */
export function asProblem(error: unknown): Problem {
  if (error instanceof Problem) return error;
  if (error instanceof TypeError) {
    return new Problem({
      code: "unreachable",
      status: 0,
      title: "The server does not answer",
      detail: "Check your connection. The page goes on by itself when the server is back.",
    });
  }
  return new Problem({
    code: "page",
    status: 0,
    title: "This page has a fault",
    detail: error instanceof Error ? error.message : "Reload the page to go on.",
  });
}

/** The one next step for each kind of problem. */
export function howToGoOn(problem: Problem): string {
  switch (problem.code) {
    case "precondition_failed":
      return "Somebody changed this since you opened it. Reload it, then make your change again.";
    case "rate_limited":
      return problem.retryAfter === null
        ? "Wait a moment, then try again."
        : `Try again in ${problem.retryAfter} seconds.`;
    case "unavailable":
      return "The server is starting or short of something. Try again in a moment.";
    case "internal":
      return "Try again. If it stays, send the request id to whoever runs this server.";
    case "not_found":
      return "It may have been removed, or the address is wrong.";
    case "forbidden":
      return "Ask a partner administrator for access.";
    default:
      return "";
  }
}
