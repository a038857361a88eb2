// The columns of the device list.
import { Link } from "@tanstack/react-router";
import { RotateCcw } from "lucide-react";
import { HealthBadge, StatusBadge, Tag, UsageBar } from "@/components/device/status";
import type { Column } from "@/components/data-table/types";
import { RelativeTime } from "@/components/ui/time";
import { Tooltip } from "@/components/ui/tooltip";
import type { DeviceSummary } from "@/lib/api/types";
import { deviceName, HEALTH_LABEL, STATUS_LABEL, systemName } from "@/lib/format/labels";
import { count, gib, NONE } from "@/lib/format/numbers";
import { duration } from "@/lib/format/time";

function column(
  id: string,
  label: string,
  size: number,
  cell: (device: DeviceSummary) => React.ReactNode,
  csv: (device: DeviceSummary) => string | number | null | undefined,
  more: {
    sortable?: boolean;
    align?: "right";
    hidden?: boolean;
    fixed?: boolean;
    highFirst?: boolean;
  } = {},
): Column<DeviceSummary> {
  const { sortable, ...meta } = more;
  return {
    id,
    header: label,
    size,
    minSize: 60,
    maxSize: 900,
    accessorFn: csv,
    enableSorting: sortable === true,
    cell: ({ row }) => cell(row.original),
    meta: { label, csv, ...meta },
  };
}

const mono = (text: string | null | undefined) =>
  text == null ? (
    <span className="text-faint">{NONE}</span>
  ) : (
    <span className="font-mono text-xs">{text}</span>
  );
const plain = (text: string | null | undefined) =>
  text ?? <span className="text-faint">{NONE}</span>;
const sortable = { sortable: true };
const extra = { hidden: true };

function NameCell({ device }: { device: DeviceSummary }) {
  return (
    <span className="flex min-w-0 items-center gap-1.5">
      <Link
        to="/devices/$deviceId"
        params={{ deviceId: device.id }}
        className="truncate font-medium hover:text-accent-ink hover:underline"
      >
        {deviceName(device)}
      </Link>
      {device.pending_reboot && (
        <Tooltip content="Waits for a restart">
          <span className="inline-flex shrink-0 text-warning">
            <RotateCcw size={12} aria-label="Waits for a restart" />
          </span>
        </Tooltip>
      )}
    </span>
  );
}

const TAGS_SHOWN = 2;

function TagsCell({ tags }: { tags: readonly string[] }) {
  return (
    <span className="flex items-center gap-1 overflow-hidden">
      {tags.slice(0, TAGS_SHOWN).map((tag) => (
        <Tag key={tag}>{tag}</Tag>
      ))}
      {tags.length > TAGS_SHOWN && (
        <Tooltip content={tags.slice(TAGS_SHOWN).join(", ")}>
          <span className="shrink-0 text-xs text-muted">+{tags.length - TAGS_SHOWN}</span>
        </Tooltip>
      )}
    </span>
  );
}

export const DEVICE_COLUMNS: Column<DeviceSummary>[] = [
  column("hostname", "Name", 190, (d) => <NameCell device={d} />, deviceName, {
    ...sortable,
    fixed: true,
  }),
  column(
    "status",
    "Status",
    150,
    (d) => <StatusBadge device={d} />,
    (d) => STATUS_LABEL[d.status],
    sortable,
  ),
  column(
    "health",
    "Health",
    100,
    (d) => <HealthBadge health={d.health} />,
    (d) => (d.health == null ? "" : HEALTH_LABEL[d.health]),
  ),
  column(
    "os_type",
    "System",
    165,
    (d) => <span>{systemName(d)}</span>,
    (d) => systemName(d),
    sortable,
  ),
  column(
    "cpu_percent",
    "CPU",
    108,
    (d) => <UsageBar value={d.cpu_percent} />,
    (d) => d.cpu_percent,
    { ...sortable, highFirst: true },
  ),
  column(
    "ram_percent",
    "Memory",
    108,
    (d) => <UsageBar value={d.ram_percent} />,
    (d) => d.ram_percent,
    { ...sortable, highFirst: true },
  ),
  column(
    "disk_percent",
    "Disk",
    108,
    (d) => <UsageBar value={d.disk_percent} />,
    (d) => d.disk_percent,
    { ...sortable, highFirst: true },
  ),
  column(
    "site",
    "Site",
    120,
    (d) => d.site.name,
    (d) => d.site.name,
  ),
  column(
    "last_user",
    "User",
    110,
    (d) => plain(d.last_user),
    (d) => d.last_user,
    extra,
  ),
  column(
    "tags",
    "Tags",
    125,
    (d) => <TagsCell tags={d.tags} />,
    (d) => d.tags.join(", "),
  ),
  column(
    "last_seen_at",
    "Last seen",
    115,
    (d) => <RelativeTime at={d.last_seen_at} className="text-muted" />,
    (d) => d.last_seen_at,
    { ...sortable, highFirst: true, ...extra },
  ),
  column(
    "display_name",
    "Given name",
    160,
    (d) => plain(d.display_name),
    (d) => d.display_name,
    { ...sortable, ...extra },
  ),
  column(
    "organization",
    "Organization",
    150,
    (d) => d.organization.name,
    (d) => d.organization.name,
    extra,
  ),
  column(
    "primary_ip",
    "Address",
    130,
    (d) => mono(d.primary_ip),
    (d) => d.primary_ip,
    extra,
  ),
  column(
    "public_ip",
    "Public address",
    130,
    (d) => mono(d.public_ip),
    (d) => d.public_ip,
    extra,
  ),
  column(
    "uptime_s",
    "Uptime",
    100,
    (d) => duration(d.uptime_s),
    (d) => d.uptime_s,
    { ...sortable, highFirst: true, ...extra, align: "right" },
  ),
  column(
    "agent_version",
    "Agent",
    90,
    (d) => mono(d.agent_version),
    (d) => d.agent_version,
    { ...sortable, ...extra },
  ),
  column(
    "architecture",
    "Architecture",
    110,
    (d) => d.architecture,
    (d) => d.architecture,
    extra,
  ),
  column(
    "cpu_model",
    "Processor",
    220,
    (d) => plain(d.cpu_model),
    (d) => d.cpu_model,
    extra,
  ),
  column(
    "cpu_threads",
    "Threads",
    80,
    (d) => count(d.cpu_threads),
    (d) => d.cpu_threads,
    { ...extra, align: "right" },
  ),
  column(
    "ram_gb",
    "Memory fitted",
    110,
    (d) => gib(d.ram_gb),
    (d) => d.ram_gb,
    { ...extra, align: "right" },
  ),
  column(
    "disk_gb",
    "Disk size",
    100,
    (d) => gib(d.disk_gb),
    (d) => d.disk_gb,
    { ...extra, align: "right" },
  ),
  column(
    "manufacturer",
    "Manufacturer",
    140,
    (d) => plain(d.manufacturer),
    (d) => d.manufacturer,
    extra,
  ),
  column(
    "model",
    "Model",
    160,
    (d) => plain(d.model),
    (d) => d.model,
    extra,
  ),
  column(
    "serial_number",
    "Serial number",
    140,
    (d) => mono(d.serial_number),
    (d) => d.serial_number,
    extra,
  ),
  column(
    "enrolled_at",
    "Enrolled",
    115,
    (d) => <RelativeTime at={d.enrolled_at} className="text-muted" />,
    (d) => d.enrolled_at,
    { ...sortable, highFirst: true, ...extra },
  ),
];

/** One device on a phone: two lines. */
export function DeviceLine({ device }: { device: DeviceSummary }) {
  return (
    <Link
      to="/devices/$deviceId"
      params={{ deviceId: device.id }}
      className="flex h-full flex-col justify-center gap-0.5"
    >
      <span className="flex items-center justify-between gap-3">
        <span className="truncate font-medium">{deviceName(device)}</span>
        <StatusBadge device={device} className="shrink-0 text-sm" />
      </span>
      <span className="truncate text-sm text-muted">
        {systemName(device)} · {device.site.name}
        {device.cpu_percent != null && ` · CPU ${Math.round(device.cpu_percent)} %`}
      </span>
    </Link>
  );
}
