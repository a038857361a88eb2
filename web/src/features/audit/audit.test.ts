import { describe, expect, it } from "vitest";
import { actionWords } from "@/features/audit/actions";
import { changeRows } from "@/features/audit/changes";
import { auditFilter, exportHref } from "@/features/audit/queries";
import { auditSearch } from "@/lib/url";

const NOW = Date.parse("2026-11-24T12:00:00Z");

describe("audit", () => {
  it("asks for what the address says, the last 30 days unless it says otherwise", () => {
    const search = auditSearch({ q: "till", result: "denied", since: "7d", colour: "red" });
    expect(auditFilter(search, NOW)).toEqual({
      q: "till",
      result: "denied",
      from: "2026-11-17T12:00:00.000Z",
    });
    expect(auditFilter({}, NOW)).toEqual({ from: "2026-10-25T12:00:00.000Z" });
    expect(auditFilter(auditSearch({ since: "all", result: "perhaps" }), NOW)).toEqual({});
  });

  it("exports what is shown", () => {
    const href = exportHref(auditFilter({ q: "a b&c", since: "all" }, NOW), "jsonl");
    expect(href).toBe("/api/v1/audit/logs/export?format=jsonl&q=a+b%26c");
  });

  it("shows both sides of a change, and that a secret changed", () => {
    expect(
      changeRows({
        display_name: { after: "Till" },
        tags: { before: [], after: ["shop", "till"] },
        "address.city": { before: "Bonn" },
        secret_sha256: { before: "…", after: "…" },
        limits: { before: { max: 1 }, after: { max: 2 } },
      }),
    ).toEqual([
      { path: "display_name", label: "Display name", before: null, after: "Till", secret: false },
      { path: "tags", label: "Tags", before: "none", after: "shop, till", secret: false },
      { path: "address.city", label: "Address › city", before: "Bonn", after: null, secret: false },
      { path: "secret_sha256", label: "Secret sha256", before: "…", after: "…", secret: true },
      { path: "limits", label: "Limits", before: '{"max":1}', after: '{"max":2}', secret: false },
    ]);
  });

  it("has words for every action", () => {
    expect(actionWords("audit_log.export")).toBe("Audit log exported");
    expect(actionWords("devices:read")).toBe("Devices read");
  });
});
