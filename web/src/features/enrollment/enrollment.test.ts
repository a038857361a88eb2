import { describe, expect, it } from "vitest";
import { KEY_DEFAULTS, keyBody, keySchema } from "@/features/enrollment/key-form";

describe("an enrolment key", () => {
  it("is sent without what was left empty", () => {
    expect(keyBody({ ...KEY_DEFAULTS, name: "x", expires_in_s: "" })).toEqual({
      name: "x",
      requires_approval: false,
    });
    expect(keyBody({ ...KEY_DEFAULTS, name: "x", max_uses: "50", site_id: "s" })).toEqual({
      name: "x",
      requires_approval: false,
      expires_in_s: 604_800,
      max_uses: 50,
      site_id: "s",
    });
  });
  it.each(["0", "-1", "1.5", "ten", "99999999"])("refuses %s uses in words", (max_uses) => {
    const result = keySchema.safeParse({ ...KEY_DEFAULTS, name: "x", max_uses });
    expect(result.success).toBe(false);
    expect(result.error?.issues[0]?.message).toContain("whole number");
  });
  it("needs a name", () => {
    expect(keySchema.safeParse({ ...KEY_DEFAULTS, name: "  " }).success).toBe(false);
  });
});
