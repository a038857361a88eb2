// How the device reaches the server, and how well.
import { PlugZap } from "lucide-react";
import { CopyText } from "@/components/ui/copy";
import { Facts, Panel } from "@/components/ui/panel";
import { EmptyState } from "@/components/ui/problem";
import { RelativeTime } from "@/components/ui/time";
import type { Device } from "@/lib/api/types";
import { count } from "@/lib/format/numbers";
import { duration, exact, millis } from "@/lib/format/time";
import { useNow } from "@/lib/now";

const SOON_MS = 86_400_000;

/** Says a clock offset in words: ahead, behind, or as good as right. */
export function clockWords(offsetMs: number | null | undefined): string {
  if (offsetMs == null) return "–";
  const size = Math.abs(offsetMs);
  if (size < 1_000) return `Right, to within a second (${Math.round(offsetMs)} ms)`;
  return `${duration(size / 1000)} ${offsetMs > 0 ? "ahead" : "behind"}`;
}

export function ConnectionTab({ device }: { device: Device }) {
  const now = useNow();
  const { connection } = device;
  const expires = millis(connection?.certificate_expires_at);
  return (
    <div className="grid gap-4 lg:grid-cols-2">
      {connection == null ? (
        <Panel>
          <EmptyState icon={<PlugZap size={20} aria-hidden />} title="Not connected">
            {device.last_seen_at == null ? (
              "It has never been heard of."
            ) : (
              <>
                Last heard of <RelativeTime at={device.last_seen_at} />.
              </>
            )}{" "}
            The agent tries again by itself.
          </EmptyState>
        </Panel>
      ) : (
        <Panel title="Now">
          <Facts
            items={[
              ["Relay", <CopyText key="relay" value={connection.relay_id} />],
              ["Region", connection.region],
              ["Transport", connection.transport === "quic" ? "QUIC (UDP)" : "WebSocket (TCP)"],
              ["Address", <CopyText key="addr" value={connection.address} />],
              [
                "Round trip",
                connection.round_trip_ms == null
                  ? "–"
                  : `${connection.round_trip_ms.toFixed(connection.round_trip_ms < 10 ? 1 : 0)} ms`,
              ],
              ["Connected", <RelativeTime key="since" at={connection.since} />],
              [
                "Certificate",
                <span
                  key="cert"
                  className={expires !== null && expires - now < SOON_MS ? "text-warning" : ""}
                >
                  ends <RelativeTime at={connection.certificate_expires_at} />
                  <span className="text-muted"> ({exact(connection.certificate_expires_at)})</span>
                </span>,
              ],
            ]}
          />
        </Panel>
      )}
      <Panel title="Reports">
        <Facts
          items={[
            [
              "Heartbeat",
              `every ${duration(device.heartbeat_interval_s)}; each second while you look`,
            ],
            ["Clock", clockWords(device.clock_offset_ms)],
            [
              "Thinned",
              device.thinned_heartbeats === 0
                ? "None: every heartbeat was kept"
                : `${count(device.thinned_heartbeats)} heartbeats were left out on the device while it could not send`,
            ],
            ["Enrolled", <RelativeTime key="enrolled" at={device.enrolled_at} />],
            ["Enrolled with", device.enrolled_by ?? "–"],
            ["Agent", device.agent_version],
            ["Device id", <CopyText key="id" value={device.id} />],
          ]}
        />
      </Panel>
    </div>
  );
}
