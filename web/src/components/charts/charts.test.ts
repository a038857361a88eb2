import { describe, expect, it } from "vitest";
import { align, appended, gapAfterMs, gapTimes, type Point } from "@/components/charts/align";
import { timeLabels } from "@/components/charts/uplot-options";

const point = (t: number, v: number): Point => [t, v, v - 1, v + 1, v];

describe("gaps", () => {
  it("breaks the line where two points are missing, not where one is late", () => {
    const gap = gapAfterMs(60);
    expect(gapTimes([point(0, 1), point(60_000, 1), point(180_000, 1)], gap)).toEqual([]);
    expect(gapTimes([point(0, 1), point(60_000, 1), point(300_000, 1)], gap)).toEqual([60_001]);
  });

  it("leaves null in the gap and undefined where only another series has a point", () => {
    const { columns } = align(
      [
        { name: "a", points: [point(0, 1), point(1_000, 2), point(10_000, 3)] },
        { name: "b", points: [point(0, 5), point(5_000, 6), point(10_000, 7)] },
      ],
      6_000,
      false,
    );
    expect(columns[0]).toEqual([0, 1, 1.001, 5, 10]);
    expect(columns[1]).toEqual([1, 2, null, undefined, 3]);
    expect(columns[2]).toEqual([5, undefined, undefined, 6, 7]);
  });

  it("carries the lowest and highest beside the average", () => {
    const { columns } = align([{ name: "a", points: [[0, 5, 1, 9, 6]] }], 1_000, true);
    expect(columns.slice(1)).toEqual([[5], [1], [9]]);
  });

  it("has nothing to draw for nothing", () => {
    expect(align([{ name: "a", points: [] }], 1_000, false).columns).toEqual([[], []]);
  });
});

describe("live points", () => {
  it("appends what is newer and forgets what is too old", () => {
    const start = [point(0, 1), point(500, 2)];
    expect(appended(start, point(1_200, 3), 1_000)).toEqual([point(500, 2), point(1_200, 3)]);
    expect(appended(start, point(500, 9), 1_000)).toEqual(start);
    expect(appended(start, point(100, 9), 1_000)).toEqual(start);
  });
});

describe("the time axis", () => {
  it("writes seconds, minutes or days as the steps ask", () => {
    const noon = Date.UTC(2026, 10, 24, 12, 0, 0) / 1000;
    expect(timeLabels([noon], 10)[0]).toMatch(/^\d\d:\d\d:\d\d$/);
    expect(timeLabels([noon], 600)[0]).toMatch(/^\d\d:\d\d$/);
    expect(timeLabels([noon], 86_400)[0]).toMatch(/Nov/);
  });
});
