import { describe, expect, it } from "vitest";
import {
  compact,
  deviceSearch,
  devicesSearch,
  localPath,
  parseSearch,
  stringifySearch,
} from "@/lib/url";

describe("search parameters", () => {
  it("keeps text as text, both ways", () => {
    const search = { q: "123", filter: 'os = "linux" and cpu_percent > 5', sort: "-cpu_percent" };
    expect(parseSearch(stringifySearch(search))).toEqual(search);
    expect(stringifySearch({ q: "", filter: undefined })).toBe("");
    expect(stringifySearch({ from: 5, add: true })).toBe("?from=5&add=1");
  });

  it("drops a sort that the server does not know, and empty text", () => {
    expect(devicesSearch({ q: "", sort: "-cpu_percent" })).toEqual({ sort: "-cpu_percent" });
    expect(devicesSearch({ sort: "drop table" })).toEqual({});
    expect(devicesSearch({ q: ["a"], filter: 3 })).toEqual({});
  });

  it("keeps a zoom only when it is a stretch of time", () => {
    expect(deviceSearch({ tab: "metrics", from: "10", to: "20" })).toEqual({
      tab: "metrics",
      from: 10,
      to: 20,
    });
    expect(deviceSearch({ from: "20", to: "10" })).toEqual({});
    expect(deviceSearch({ events: "presence", section: "drivers" })).toEqual({
      events: "presence",
    });
    expect(deviceSearch({ from: "x", to: "10", tab: "nope", range: "2h" })).toEqual({});
  });

  it("goes on only to a path of this site", () => {
    expect(localPath("/devices?q=a")).toBe("/devices?q=a");
    for (const bad of [
      "https://evil.example",
      "//evil.example",
      "/\\evil.example",
      "javascript:alert(1)",
      "",
      undefined,
    ]) {
      expect(localPath(bad)).toBeUndefined();
    }
  });

  it("leaves out what holds nothing", () => {
    expect(compact({ a: 1, b: undefined })).toEqual({ a: 1 });
  });
});
