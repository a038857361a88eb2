// A look at one device without leaving the list.
import { Link } from "@tanstack/react-router";
import { X } from "lucide-react";
import { HealthBadge, StatusBadge, Tag, UsageBar } from "@/components/device/status";
import { buttonClass } from "@/components/ui/button";
import { CopyText } from "@/components/ui/copy";
import { Facts } from "@/components/ui/panel";
import { RelativeTime } from "@/components/ui/time";
import type { DeviceSummary } from "@/lib/api/types";
import { deviceName, systemName } from "@/lib/format/labels";
import { gib, plural } from "@/lib/format/numbers";
import { duration } from "@/lib/format/time";

export function Peek({ device, onClose }: { device: DeviceSummary; onClose: () => void }) {
  return (
    <aside
      aria-label={`Peek at ${deviceName(device)}`}
      className="flex w-[340px] shrink-0 flex-col border-l border-line bg-surface max-lg:absolute max-lg:inset-y-0 max-lg:right-0 max-lg:z-20 max-lg:shadow-pop max-sm:w-full"
    >
      <header className="flex items-start gap-2 border-b border-line px-4 py-3">
        <div className="min-w-0 flex-1">
          <h2 className="truncate text-base font-semibold">{deviceName(device)}</h2>
          <StatusBadge device={device} className="text-sm" />
        </div>
        <button
          type="button"
          onClick={onClose}
          aria-label="Close the peek"
          className={buttonClass("ghost", "icon")}
        >
          <X size={15} aria-hidden />
        </button>
      </header>
      <div className="flex flex-1 flex-col gap-4 overflow-auto px-4 py-4">
        <Facts
          items={[
            ["CPU", <UsageBar key="cpu" value={device.cpu_percent} />],
            ["Memory", <UsageBar key="ram" value={device.ram_percent} />],
            ["Disk", <UsageBar key="disk" value={device.disk_percent} />],
          ]}
        />
        <Facts
          items={[
            ["Health", <HealthBadge key="health" health={device.health} />],
            ["System", systemName(device)],
            ["Site", `${device.organization.name} › ${device.site.name}`],
            ["User", device.last_user ?? "–"],
            [
              "Address",
              device.primary_ip == null ? "–" : <CopyText key="ip" value={device.primary_ip} />,
            ],
            [
              "Public",
              device.public_ip == null ? "–" : <CopyText key="pub" value={device.public_ip} />,
            ],
            ["Uptime", duration(device.uptime_s)],
            [
              "Processor",
              device.cpu_model == null
                ? "–"
                : `${device.cpu_model}${device.cpu_threads == null ? "" : `, ${plural(device.cpu_threads, "thread")}`}`,
            ],
            ["Memory", gib(device.ram_gb)],
            ["Agent", device.agent_version],
            ["Last seen", <RelativeTime key="seen" at={device.last_seen_at} />],
          ]}
        />
        {device.tags.length > 0 && (
          <div className="flex flex-wrap gap-1">
            {device.tags.map((tag) => (
              <Tag key={tag}>{tag}</Tag>
            ))}
          </div>
        )}
      </div>
      <footer className="border-t border-line px-4 py-3">
        <Link
          to="/devices/$deviceId"
          params={{ deviceId: device.id }}
          className={buttonClass("primary")}
        >
          Open the device
        </Link>
      </footer>
    </aside>
  );
}
