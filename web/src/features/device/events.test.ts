import { describe, expect, it } from "vitest";
import { byDay, eventLook, eventTitle, missingRegions } from "@/features/device/events";

describe("the events of a device", () => {
  it("have a look for each kind, also for those of a newer server", () => {
    expect(eventLook("connected")).toBe("connected");
    expect(eventLook("offline")).toBe("offline");
    expect(eventLook("inventory_changed")).toBe("inventory");
    expect(eventLook("rebooted")).toBe("other");
    expect(eventTitle("inventory_changed")).toBe("Inventory changed");
  });
  it("are told day by day", () => {
    const at = (day: number, hour: number) => ({
      at: new Date(2026, 10, day, hour).toISOString(),
    });
    const days = byDay([at(24, 9), at(24, 8), at(22, 23)]);
    expect(days.map(([day, of]) => [day, of.length])).toEqual([
      ["Tuesday, 24 November 2026", 2],
      ["Sunday, 22 November 2026", 1],
    ]);
  });
  it("say which regions are missing", () => {
    expect(missingRegions([], "events")).toBe("");
    expect(missingRegions(["eu", "us"], "events")).toBe(
      "No answer from eu, us: events from there are missing.",
    );
  });
});
