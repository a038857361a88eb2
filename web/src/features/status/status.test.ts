import { describe, expect, it } from "vitest";
import { gaugeLabel } from "@/features/status/components/role-card";

describe("gauges", () => {
  it("lose the name of their role and say that they are totals", () => {
    expect(gaugeLabel("collector_heartbeats", "collector")).toBe("Heartbeats");
    expect(gaugeLabel("collector_heartbeats_total", "collector")).toBe("Heartbeats, total");
    expect(gaugeLabel("control_plane_uptime", "control-plane")).toBe("Uptime");
    expect(gaugeLabel("lanes_stuck", "relay")).toBe("Lanes stuck");
  });
});
