import { describe, expect, it } from "vitest";
import { changeName, fieldValue, gist, restOf, versionTitle } from "@/features/device/changes";
import type { InventoryChange, InventoryVersionInfo } from "@/lib/api/types";

const version = (more: Partial<InventoryVersionInfo>): InventoryVersionInfo => ({
  version: "software-1-00",
  section: "software",
  at: "2026-11-24T12:00:00.000Z",
  bytes: 10,
  first: null,
  counts: null,
  ...more,
});

describe("versions of an inventory", () => {
  it("say in a line what changed", () => {
    expect(versionTitle(version({ first: true }))).toBe("Software reported for the first time");
    expect(versionTitle(version({ counts: { added: 1, removed: 0, updated: 3 } }))).toBe(
      "Software: 1 added, 3 updated",
    );
    expect(versionTitle(version({ section: "network" }))).toBe("Network changed");
    expect(versionTitle(version({ counts: { added: 0, removed: 0, updated: 0 } }))).toBe(
      "Software changed",
    );
  });
});

describe("changes", () => {
  const change = (more: Partial<InventoryChange>): InventoryChange => ({
    kind: "added",
    what: "software",
    name: "nginx",
    qualifier: "dpkg amd64",
    fields: [],
    ...more,
  });
  it("are named by what they are", () => {
    expect(changeName(change({}))).toBe("nginx");
    expect(changeName(change({ what: "disk", name: "/data" }))).toBe("File system /data");
    expect(changeName(change({ what: "hardware", name: "" }))).toBe("");
  });
  it("have values that people read", () => {
    expect(fieldValue("ram_total_mb", "16384")).toBe("16 GiB");
    expect(fieldValue("is_primary", "true")).toBe("yes");
    expect(fieldValue("version", null)).toBe("–");
    expect(gist(change({ fields: [{ field: "version", before: null, after: "1.2" }] }))).toBe(
      "1.2",
    );
  });
  it("say how many are not shown", () => {
    expect(restOf(1_200, 1_000)).toBe("200 more changes not shown");
    expect(restOf(3, 3)).toBe("");
  });
});
