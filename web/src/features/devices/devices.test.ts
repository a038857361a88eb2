import { describe, expect, it } from "vitest";
import { runBulk } from "@/features/devices/bulk";
import { changedTags } from "@/features/devices/components/bulk-bar";
import { complete } from "@/features/devices/complete";
import { mergeChanges } from "@/features/devices/queries";
import { parseViews, sameView } from "@/features/devices/views";
import { Problem } from "@/lib/api/problem";
import type { DevicePage, DeviceSummary } from "@/lib/api/types";

const device = (id: string): DeviceSummary =>
  ({ id, hostname: id, tags: [], status: "online", cpu_percent: 1 }) as unknown as DeviceSummary;
const page = (...ids: string[]): DevicePage => ({
  data: ids.map(device),
  next_cursor: null,
  has_more: false,
  total: ids.length,
  facets: { status: {}, os_type: {}, health: {}, tags: {} },
});

describe("live changes", () => {
  it("touch only the rows and pages they name", () => {
    const before = { pages: [page("a", "b"), page("c")], pageParams: [null, "x"] };
    const changes = new Map([
      ["b", { id: "b", cpu_percent: 90 }],
      ["z", { id: "z", cpu_percent: 1 }],
    ]);
    const { data, found } = mergeChanges(before, changes);
    expect(data.pages[0]?.data[1]?.cpu_percent).toBe(90);
    expect(data.pages[0]?.data[1]?.hostname).toBe("b");
    expect(data.pages[0]?.data[0]).toBe(before.pages[0]?.data[0]);
    expect(data.pages[1]).toBe(before.pages[1]);
    expect([...found]).toEqual(["b"]);
  });
});

describe("bulk work", () => {
  it("goes on after a failure and names it", async () => {
    const steps: number[] = [];
    const result = await runBulk(
      ["a", "b", "c"].map(device),
      (one) =>
        one.id === "b"
          ? Promise.reject(new Problem({ code: "not_found", status: 404, title: "Gone" }))
          : Promise.resolve(),
      (progress) => steps.push(progress.done),
      new AbortController().signal,
    );
    expect(steps).toEqual([1, 2, 3]);
    expect(result.failed.map(({ device: one, problem }) => [one.id, problem.title])).toEqual([
      ["b", "Gone"],
    ]);
  });

  it("starts nothing new once stopped", async () => {
    const stop = new AbortController();
    let started = 0;
    await runBulk(
      Array.from({ length: 50 }, (_, i) => device(String(i))),
      () => {
        started += 1;
        stop.abort();
        return Promise.resolve();
      },
      () => undefined,
      stop.signal,
    );
    expect(started).toBeLessThanOrEqual(4);
  });

  it("adds and removes tags without doubling", () => {
    expect(changedTags(["a", "b"], { add: ["b", "c"], remove: ["a"] })).toEqual(["b", "c"]);
  });
});

describe("saved views", () => {
  it("reads what it wrote and drops nonsense", () => {
    expect(parseViews([{ id: "1", name: "x", filter: "a = 1", junk: 1 }, { id: 2 }, null])).toEqual(
      [{ id: "1", name: "x", filter: "a = 1" }],
    );
    expect(parseViews("x")).toBeNull();
  });
  it("knows itself by search, filter and order, not by the peek", () => {
    expect(sameView({ filter: "a = 1" }, { filter: "a = 1", peek: "id" })).toBe(true);
    expect(sameView({ filter: "a = 1" }, { filter: "a = 1", sort: "status" })).toBe(false);
  });
});

describe("completion", () => {
  const facets = {
    status: { online: 3 },
    os_type: { linux: 3 },
    health: {},
    tags: { "floor 2": 1, lab: 2 },
  };
  const field = (name: string, operators: string[], values: string[] = []) => ({
    name,
    aliases: [],
    description: "",
    type: "text",
    operators,
    values,
  });
  const fields = [
    field("status", ["=", "!=", "in"], ["online", "offline", "decommissioned"]),
    field("cpu_percent", ["<", ">"]),
    field("tag", [":"]),
  ];
  const labels = (text: string) => complete(text, fields, facets).map((one) => one.label);
  it("offers fields, operators, values and joiners in turn", () => {
    expect(labels("sta")).toContain("status");
    expect(labels("status ")).toEqual(["=", "!=", "in"]);
    expect(labels("status = on")).toEqual(["online", "decommissioned"]);
    expect(labels("status = online ")).toEqual(["and", "or"]);
    expect(labels("status = online and cpu_p")).toEqual(["cpu_percent"]);
  });
  it("quotes values that need it", () => {
    expect(complete("tag:fl", fields, facets)[0]?.text).toBe('tag:"floor 2" ');
  });
});
