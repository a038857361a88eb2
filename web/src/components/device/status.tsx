// The status vocabulary, the same everywhere: a shape and a word, never colour alone.
import { Ban, CircleCheck, CircleX, Hourglass, TriangleAlert, Wrench } from "lucide-react";
import { RelativeTime } from "@/components/ui/time";
import type { DeviceHealth, DeviceStatus, DeviceSummary } from "@/lib/api/types";
import { cn } from "@/lib/cn";
import { HEALTH_LABEL, STATUS_LABEL } from "@/lib/format/labels";

export function StatusMark({ status }: { status: DeviceStatus }) {
  switch (status) {
    case "online":
      return <span className="inline-block size-2.5 shrink-0 rounded-full bg-online" aria-hidden />;
    case "offline":
      return (
        <span
          className="inline-block size-2.5 shrink-0 rounded-full border-2 border-offline"
          aria-hidden
        />
      );
    case "maintenance":
      return <Wrench size={13} className="shrink-0 text-maintenance" aria-hidden />;
    case "pending":
      return <Hourglass size={13} className="shrink-0 text-pending" aria-hidden />;
    case "decommissioned":
      return <Ban size={13} className="shrink-0 text-offline" aria-hidden />;
  }
}

export function StatusBadge({
  device,
  className,
}: {
  device: Pick<DeviceSummary, "status" | "last_seen_at">;
  className?: string;
}) {
  return (
    <span
      className={cn("inline-flex items-center gap-1.5 align-middle whitespace-nowrap", className)}
    >
      <StatusMark status={device.status} />
      <span>{STATUS_LABEL[device.status]}</span>
      {device.status === "offline" && device.last_seen_at != null && (
        <RelativeTime at={device.last_seen_at} className="text-muted" />
      )}
    </span>
  );
}

export function HealthBadge({ health }: { health: DeviceHealth | null | undefined }) {
  if (health == null) return <span className="text-faint">–</span>;
  const Icon = health === "ok" ? CircleCheck : health === "warning" ? TriangleAlert : CircleX;
  const tone =
    health === "ok" ? "text-online" : health === "warning" ? "text-warning" : "text-critical";
  return (
    <span className="inline-flex items-center gap-1.5 align-middle whitespace-nowrap">
      <Icon size={14} className={cn("shrink-0", tone)} aria-hidden />
      {HEALTH_LABEL[health]}
    </span>
  );
}

export function Tag({ children, onRemove }: { children: string; onRemove?: () => void }) {
  return (
    <span className="inline-flex h-5 max-w-44 min-w-0 items-center gap-1 rounded border border-line bg-surface-2 px-1.5 text-xs">
      <span className="truncate">{children}</span>
      {onRemove !== undefined && (
        <button
          type="button"
          onClick={onRemove}
          aria-label={`Remove tag ${children}`}
          className="-mr-0.5 px-0.5 text-faint hover:text-text"
        >
          ×
        </button>
      )}
    </span>
  );
}

/** A percentage as a number with a thin bar. The bar repeats the number; it says nothing alone. */
export function UsageBar({
  value,
  className,
}: {
  value: number | null | undefined;
  className?: string;
}) {
  if (value == null) return <span className="text-faint">–</span>;
  const tone = value >= 90 ? "bg-critical" : value >= 75 ? "bg-warning" : "bg-accent";
  const width = Math.max(0, Math.min(100, value));
  return (
    <span className={cn("inline-flex w-full items-center gap-2 align-middle", className)}>
      <span className="w-11 shrink-0 text-right whitespace-nowrap tabular">
        {Math.round(value)} %
      </span>
      <span className="h-1.5 min-w-8 flex-1 overflow-hidden rounded-full bg-surface-3" aria-hidden>
        <span className={cn("block h-full rounded-full", tone)} style={{ width: `${width}%` }} />
      </span>
    </span>
  );
}
