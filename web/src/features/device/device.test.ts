import { describe, expect, it } from "vitest";
import { detailCharts, splitDetail } from "@/features/device/charts";
import { clockWords } from "@/features/device/components/connection-tab";
import { patchOf } from "@/features/device/components/edit-dialog";
import { byInterface } from "@/features/device/components/network-tab";
import { withSample } from "@/features/device/live-samples";
import { missingRegions, refreshMs, stretchOf, ZOOM_MIN_MS } from "@/features/device/ranges";
import type { Device } from "@/lib/api/types";

describe("the stretch of the metrics page", () => {
  it("is the last hour unless the URL says otherwise", () => {
    expect(stretchOf({})).toEqual({ kind: "last", range: "1h", ms: 3_600_000 });
    expect(stretchOf({ range: "30d" })).toMatchObject({ range: "30d" });
  });
  it("is never zoomed to less than can be drawn", () => {
    const stretch = stretchOf({ from: 1_000_000, to: 1_000_010 });
    expect(stretch).toMatchObject({ kind: "fixed" });
    if (stretch.kind === "fixed") expect(stretch.to - stretch.from).toBe(ZOOM_MIN_MS);
  });
  it("names the regions whose points are missing", () => {
    expect(missingRegions(["eu"])).toBe("Region eu does not answer: its points are missing.");
    expect(missingRegions(["ap", "eu", "us"])).toBe(
      "Regions ap, eu and us do not answer: their points are missing.",
    );
  });
  it("asks again for what moves only", () => {
    expect(refreshMs({ kind: "fixed", from: 0, to: 1 })).toBe(false);
    expect(refreshMs(stretchOf({}))).toBe(30_000);
  });
});

describe("detail series", () => {
  it("are grouped by item and unit", () => {
    expect(splitDetail("disk./home.used_percent", "disk.")).toEqual({
      item: "/home",
      measure: "used_percent",
    });
    expect(splitDetail("cpu.3", "cpu.")).toEqual({ item: "3", measure: "" });
    const charts = detailCharts(
      [
        { name: "net.eth0.in_bytes_per_s", unit: "bytes_per_s", points: [] },
        { name: "net.eth0.out_bytes_per_s", unit: "bytes_per_s", points: [] },
        { name: "net.eth0.errors", unit: "count", points: [] },
      ],
      "net.",
    );
    expect(charts.map((chart) => [chart.title, chart.series.length])).toEqual([
      ["eth0", 2],
      ["eth0", 1],
    ]);
    expect(detailCharts([{ name: "cpu.0", unit: "percent", points: [] }], "cpu.")[0]).toMatchObject(
      {
        title: "Core 0",
        max: 100,
      },
    );
  });
});

describe("live samples", () => {
  it("go to the series they name", () => {
    const all = [
      { name: "cpu_percent", unit: "percent", points: [] },
      { name: "load1", unit: "", points: [] },
    ];
    const next = withSample(all, { t: 5, values: { cpu_percent: 40 } }, 1_000);
    expect(next[0]?.points).toEqual([[5, 40, 40, 40, 40]]);
    expect(next[1]).toBe(all[1]);
  });
});

describe("editing a device", () => {
  const device = {
    hostname: "h",
    display_name: null,
    tags: ["a", "b"],
    site: { id: "s1", name: "S" },
  } as unknown as Device;
  it("sends only what was changed", () => {
    expect(patchOf(device, { display_name: "", site_id: "s1", tags: ["b", "a"] })).toEqual({});
    expect(patchOf(device, { display_name: "Till", site_id: "s2", tags: ["a"] })).toEqual({
      display_name: "Till",
      site_id: "s2",
      tags: ["a"],
    });
  });
  it("takes a name away with null", () => {
    expect(
      patchOf(
        { ...device, display_name: "Till" },
        { display_name: "", site_id: "s1", tags: ["a", "b"] },
      ),
    ).toEqual({
      display_name: null,
    });
  });
});

describe("interfaces", () => {
  it("without an address have none", () => {
    const bare = {
      interface_name: "ifb0",
      mac_address: "06:0f",
      ip_address: "",
      prefix_len: 0,
      ip_type: "ipv4",
      is_primary: false,
    };
    expect(byInterface([bare])).toEqual([{ name: "ifb0", mac: "06:0f", addresses: [] }]);
  });
});

describe("words", () => {
  it("say how wrong a clock is", () => {
    expect(clockWords(142)).toContain("within a second");
    expect(clockWords(-90_000)).toBe("1 min 30 s behind");
    expect(clockWords(null)).toBe("–");
  });
  it("put the interface with the main address first", () => {
    const address = (interface_name: string, is_primary: boolean) => ({
      interface_name,
      is_primary,
      ip_address: "192.0.2.1",
      ip_type: "ipv4",
      mac_address: "",
      prefix_len: 24,
    });
    expect(
      byInterface([address("lo", false), address("eth0", true), address("lo", false)]).map(
        (g) => g.name,
      ),
    ).toEqual(["eth0", "lo"]);
  });
});
