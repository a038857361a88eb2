import { describe, expect, it } from "vitest";
import { eventLook, eventTitle, missingEvents } from "@/features/device/events";

describe("the events of a device", () => {
  it("have a look for each kind, also for those of a newer server", () => {
    expect(eventLook("connected")).toBe("connected");
    expect(eventLook("offline")).toBe("disconnected");
    expect(eventLook("inventory_changed")).toBe("inventory");
    expect(eventLook("rebooted")).toBe("other");
    expect(eventTitle("inventory_changed")).toBe("Inventory changed");
  });
  it("say which regions are missing", () => {
    expect(missingEvents([])).toBe("");
    expect(missingEvents(["eu", "us"])).toBe(
      "No answer from eu, us: events from there are missing.",
    );
  });
});
