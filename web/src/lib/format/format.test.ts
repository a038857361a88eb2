import { describe, expect, it } from "vitest";
import {
  bytes,
  bytesPerSecond,
  count,
  gib,
  percent,
  perSecond,
  plural,
  withUnit,
} from "@/lib/format/numbers";
import { duration, exact, graphTime, relative } from "@/lib/format/time";
import { deviceName, humanize, known, osLabel, scopeName, systemName } from "@/lib/format/labels";

describe("numbers", () => {
  it.each([
    [0, "0 B"],
    [1, "1 B"],
    [1023, "1,023 B"],
    [1024, "1 KiB"],
    [1536, "1.5 KiB"],
    [1024 ** 2 * 12.34, "12.3 MiB"],
    [1024 ** 3 * 123.4, "123 GiB"],
    [1024 ** 3 * 1023.9, "1 TiB"],
    [-2048, "−2 KiB"],
    [2 ** 80, "1,073,741,824 PiB"],
  ])("writes %d bytes as %s", (value, text) => {
    expect(bytes(value)).toBe(text);
  });

  it("shows a dash for what is not there, never NaN", () => {
    for (const format of [bytes, bytesPerSecond, gib, percent, count, perSecond]) {
      expect(format(null)).toBe("–");
      expect(format(undefined)).toBe("–");
      expect(format(Number.NaN)).toBe("–");
      expect(format(Infinity)).toBe("–");
    }
  });

  it.each([
    [42.26, "percent", "42.3 %"],
    [1, "mb", "1 MiB"],
    [2048, "bytes_per_s", "2 KiB/s"],
    [12.345, "per_s", "12.3/s"],
    [3, "ms", "3 ms"],
    [7, "", "7"],
    [7.5, "queue_items", "7.5 queue items"],
  ])("writes %d in %s as %s", (value, unit, text) => {
    expect(withUnit(value, unit)).toBe(text);
  });

  it("counts in words", () => {
    expect(plural(1, "device")).toBe("1 device");
    expect(plural(12431, "device")).toBe("12,431 devices");
    expect(plural(0, "entry", "entries")).toBe("0 entries");
  });
});

describe("durations", () => {
  it.each([
    [0, "0 s"],
    [59.4, "59 s"],
    [60, "1 min"],
    [61, "1 min 1 s"],
    [11 * 60 + 20, "11 min"],
    [3600, "1 h"],
    [3660, "1 h 1 min"],
    [86_400, "1 d"],
    [90_000, "1 d 1 h"],
    [40 * 86_400 + 3600, "40 d"],
    [-5, "0 s"],
  ])("says %d seconds as %s", (seconds, text) => {
    expect(duration(seconds)).toBe(text);
  });
  it("says nothing of an unknown one", () => {
    expect(duration(null)).toBe("–");
  });
});

describe("relative times", () => {
  const now = Date.parse("2026-11-24T13:00:00.000Z");
  it.each([
    ["2026-11-24T12:59:55.000Z", "just now"],
    ["2026-11-24T13:00:04.000Z", "just now"],
    ["2026-11-24T12:59:30.000Z", "30 s ago"],
    ["2026-11-24T12:55:00.000Z", "5 min ago"],
    ["2026-11-24T11:00:00.000Z", "2 h ago"],
    ["2026-11-20T13:00:00.000Z", "4 d ago"],
    ["2026-05-24T13:00:00.000Z", "6 months ago"],
    ["2020-11-24T13:00:00.000Z", "6 years ago"],
    ["2026-11-24T17:00:00.000Z", "in 4 h"],
  ])("says %s as %s", (at, text) => {
    expect(relative(at, now)).toBe(text);
  });
  it("does not invent a time", () => {
    expect(relative(null, now)).toBe("–");
    expect(relative("not a time", now)).toBe("–");
    expect(exact(undefined)).toBe("–");
  });
  it("shows seconds under the crosshair only where points are that close", () => {
    expect(graphTime(now, 1)).toMatch(/^\d\d:\d\d:\d\d$/);
    expect(graphTime(now, 3600)).toMatch(/Nov/);
  });
});

describe("labels", () => {
  it("names systems, actions and devices", () => {
    expect(osLabel("macos")).toBe("macOS");
    expect(osLabel("plan9")).toBe("plan9");
    expect(humanize("enrollment_key.create")).toBe("Enrollment key create");
    expect(systemName({ os_type: "linux", os_version: "Debian GNU/Linux 12 (bookworm)" })).toBe(
      "Debian 12 (bookworm)",
    );
    expect(systemName({ os_type: "linux", os_version: "6.1" })).toBe("Linux 6.1");
    expect(systemName({ os_type: "windows", os_version: "11 Pro" })).toBe("Windows 11 Pro");
    expect(scopeName("A", "B")).toBe("A › B");
    expect(scopeName("A", "A")).toBe("A");
    expect(known("")).toBe("–");
    expect(deviceName({ display_name: null, hostname: "web-1" })).toBe("web-1");
    expect(deviceName({ display_name: "Till 4", hostname: "web-1" })).toBe("Till 4");
  });
});
