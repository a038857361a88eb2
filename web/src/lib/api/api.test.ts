import { describe, expect, it, vi } from "vitest";
import { api, setCsrfToken, unwrap } from "@/lib/api/client";
import { withFreshTag } from "@/lib/api/device-actions";
import { asProblem, howToGoOn, Problem, problemFrom } from "@/lib/api/problem";

const problemBody = (code: string, status: number) => ({
  type: `urn:breeze:problem:${code}`,
  title: "No",
  status,
  detail: "Because.",
  request_id: "r-1",
  errors: [{ field: "email", message: "Wrong." }, { nonsense: true }],
});

describe("problems", () => {
  it("are read with code, fields and request id", () => {
    const problem = problemFrom(
      new Response(null, { status: 422, headers: { "Retry-After": "7" } }),
      problemBody("validation", 422),
    );
    expect(problem).toMatchObject({
      code: "validation",
      status: 422,
      detail: "Because.",
      requestId: "r-1",
      retryAfter: 7,
    });
    expect(problem.errors).toEqual([{ field: "email", message: "Wrong." }]);
  });
  it("are made of anything else that came back", () => {
    const problem = problemFrom(
      new Response(null, { status: 502, headers: { "X-Request-Id": "r-2" } }),
      "<html>",
    );
    expect(problem).toMatchObject({
      code: "unknown",
      title: "The server answered 502",
      requestId: "r-2",
    });
  });
  it("say how to go on", () => {
    expect(
      howToGoOn(new Problem({ code: "precondition_failed", status: 412, title: "x" })),
    ).toContain("Reload");
    expect(
      howToGoOn(new Problem({ code: "rate_limited", status: 429, title: "x", retryAfter: 3 })),
    ).toContain("3 seconds");
    expect(asProblem(new TypeError("Failed to fetch")).title).toBe("The server does not answer");
  });
});

describe("the client", () => {
  it("sends the CSRF token with what changes something, and only then", async () => {
    const fetch = vi.fn<(request: Request) => Promise<Response>>(() =>
      Promise.resolve(Response.json({ ticket: "t" })),
    );
    vi.stubGlobal("fetch", fetch);
    setCsrfToken("secret");
    await unwrap(api.POST("/api/v1/ws-tickets"));
    await unwrap(api.GET("/api/v1/instance"));
    expect(fetch.mock.calls.map(([request]) => request.headers.get("X-CSRF-Token"))).toEqual([
      "secret",
      null,
    ]);
    setCsrfToken(null);
  });
  it("throws the problem of a failed answer", async () => {
    vi.stubGlobal("fetch", () =>
      Promise.resolve(Response.json(problemBody("not_found", 404), { status: 404 })),
    );
    await expect(unwrap(api.GET("/api/v1/overview"))).rejects.toMatchObject({
      code: "not_found",
      status: 404,
    });
  });
});

describe("a change of many devices", () => {
  const id = "0193591e-7a4c-7cc1-9d2b-3f1f0b0f6a11";
  it("reads again when somebody was faster, and waits when told to", async () => {
    let version = 0;
    vi.stubGlobal("fetch", () => {
      version += 1;
      return Promise.resolve(Response.json({ id }, { headers: { ETag: `"${version}"` } }));
    });
    const seen: string[] = [];
    const waits: number[] = [];
    await withFreshTag(
      id,
      ({ etag }) => {
        seen.push(etag);
        if (seen.length === 1)
          throw new Problem({ code: "precondition_failed", status: 412, title: "" });
        if (seen.length === 2)
          throw new Problem({ code: "rate_limited", status: 429, title: "", retryAfter: 3 });
        return Promise.resolve();
      },
      (ms) => {
        waits.push(ms);
        return Promise.resolve();
      },
    );
    expect(seen).toEqual(['"1"', '"2"', '"3"']);
    expect(waits).toEqual([3_000]);
  });
  it("gives up on what another try cannot mend", async () => {
    vi.stubGlobal("fetch", () =>
      Promise.resolve(Response.json({ id }, { headers: { ETag: '"1"' } })),
    );
    let tries = 0;
    await expect(
      withFreshTag(id, () => {
        tries += 1;
        throw new Problem({ code: "forbidden", status: 403, title: "No" });
      }),
    ).rejects.toMatchObject({ status: 403 });
    expect(tries).toBe(1);
  });
});
