import { describe, expect, it } from "vitest";
import { roleCounts } from "@/features/status/components/regions";
import { gaugeLabel } from "@/features/status/components/role-card";

describe("gauges", () => {
  it("lose the name of their role and say that they are totals", () => {
    expect(gaugeLabel("collector_heartbeats", "collector")).toBe("Heartbeats");
    expect(gaugeLabel("collector_heartbeats_total", "collector")).toBe("Heartbeats, total");
    expect(gaugeLabel("control_plane_uptime", "control-plane")).toBe("Uptime");
    expect(gaugeLabel("lanes_stuck", "relay")).toBe("Lanes stuck");
  });
});

describe("a region's nodes", () => {
  it("are counted by role, and of how many where not all are ready", () => {
    const role = (name: string, ready: boolean) => ({ role: name, ready });
    expect(roleCounts([role("relay", true), role("relay", true), role("collector", false)])).toBe(
      "0 of 1 collector, 2 relays",
    );
    expect(roleCounts([role("control-plane", true)])).toBe("1 control-plane node");
    expect(roleCounts([])).toBe("None heard of");
  });
});
