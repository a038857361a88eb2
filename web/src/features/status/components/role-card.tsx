// One running role with its gauges.
import { CircleCheck, TriangleAlert } from "lucide-react";
import { Facts, Panel } from "@/components/ui/panel";
import { RelativeTime } from "@/components/ui/time";
import type { RoleInfo } from "@/lib/api/types";
import { humanize } from "@/lib/format/labels";
import { withUnit } from "@/lib/format/numbers";
import { duration, millis } from "@/lib/format/time";
import { useNow } from "@/lib/now";

type Gauge = RoleInfo["gauges"][number];

/** `collector_heartbeats_total` on the collector's card -> `Heartbeats, total`. */
export function gaugeLabel(name: string, role: string): string {
  const prefix = `${role.replaceAll("-", "_")}_`;
  const own = name.startsWith(prefix) ? name.slice(prefix.length) : name;
  return own.endsWith("_total")
    ? `${humanize(own.slice(0, -"_total".length))}, total`
    : humanize(own);
}

function gaugeValue({ value, unit }: Gauge): string {
  const seconds = unit === "s" || unit === "seconds";
  return seconds && value >= 60 ? duration(value) : withUnit(value, unit);
}

export function Gauges({ role }: { role: RoleInfo }) {
  return (
    <Facts
      items={role.gauges.map((gauge) => [
        gaugeLabel(gauge.name, role.role),
        <span key={`${gauge.name}/${gauge.unit}`} className="tabular">
          {gaugeValue(gauge)}
        </span>,
      ])}
    />
  );
}

export function RoleCard({ role }: { role: RoleInfo }) {
  const now = useNow();
  const silent = role.gone;
  const well = role.ready && !silent;
  const Icon = well ? CircleCheck : TriangleAlert;
  return (
    <Panel
      title={humanize(role.role)}
      actions={
        <span className="inline-flex items-center gap-1.5 text-xs">
          <Icon size={14} className={well ? "text-online" : "text-warning"} aria-hidden />
          {silent ? "Gone" : role.ready ? "Ready" : "Not ready"}
        </span>
      }
    >
      <p className="mb-3 text-xs text-muted">
        <span className="font-mono">{role.id}</span> in {role.region}, {role.version}, up{" "}
        {duration((now - (millis(role.started_at) ?? now)) / 1000)}
        {silent && (
          <>
            {" "}
            · last heard <RelativeTime at={role.seen_at} />
          </>
        )}
      </p>
      {role.message !== "" && <p className="mb-3 text-sm">{role.message}</p>}
      <Gauges role={role} />
    </Panel>
  );
}
