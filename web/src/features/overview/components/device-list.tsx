// Five devices worth a look.
import { Link } from "@tanstack/react-router";
import { StatusMark, UsageBar } from "@/components/device/status";
import { Panel, Skeleton } from "@/components/ui/panel";
import { RelativeTime } from "@/components/ui/time";
import type { DeviceSummary } from "@/lib/api/types";
import { deviceName, osLabel, STATUS_LABEL } from "@/lib/format/labels";

type Kind = "busiest" | "offline" | "newest";
const ROWS = 5;

const MORE: Record<Kind, { sort: string; filter?: string }> = {
  busiest: { sort: "-cpu_percent" },
  offline: { sort: "last_seen_at", filter: "status = offline" },
  newest: { sort: "-enrolled_at" },
};

export function DeviceList({
  title,
  kind,
  devices,
  empty,
}: {
  title: string;
  kind: Kind;
  devices: DeviceSummary[] | undefined;
  empty: string;
}) {
  return (
    <Panel
      title={title}
      flush
      actions={
        <Link
          to="/devices"
          search={MORE[kind]}
          className="text-xs text-accent-ink hover:underline"
          aria-label={`All: ${title}`}
        >
          All
        </Link>
      }
    >
      <ul className="min-h-[228px] pb-2">
        {devices === undefined
          ? Array.from({ length: ROWS }, (_, i) => (
              <li key={i} className="flex h-11 items-center gap-3 px-4">
                <Skeleton className="h-3.5 w-1/2" />
              </li>
            ))
          : devices.map((device) => <Row key={device.id} device={device} kind={kind} />)}
        {devices?.length === 0 && <li className="px-4 py-3 text-sm text-muted">{empty}</li>}
      </ul>
    </Panel>
  );
}

function Row({ device, kind }: { device: DeviceSummary; kind: Kind }) {
  return (
    <li>
      <Link
        to="/devices/$deviceId"
        params={{ deviceId: device.id }}
        className="flex h-11 items-center gap-3 px-4 text-sm hover:bg-surface-2"
      >
        <span className="flex w-3.5 justify-center">
          <StatusMark status={device.status} />
          <span className="sr-only">{STATUS_LABEL[device.status]}</span>
        </span>
        <span className="min-w-0 flex-1">
          <span className="block truncate leading-4 font-medium">{deviceName(device)}</span>
          <span className="block truncate text-xs leading-4 text-faint">
            {osLabel(device.os_type)} · {device.site.name}
          </span>
        </span>
        {kind === "busiest" ? (
          <UsageBar value={device.cpu_percent} className="w-28" />
        ) : (
          <RelativeTime
            at={kind === "newest" ? device.enrolled_at : device.last_seen_at}
            className="text-xs whitespace-nowrap text-muted"
          />
        )}
      </Link>
    </li>
  );
}
