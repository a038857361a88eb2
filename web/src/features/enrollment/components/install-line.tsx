// The line that enrols a machine, and the wait for the machine to appear.
import { Link } from "@tanstack/react-router";
import { CircleCheck, Hourglass } from "lucide-react";
import { StatusBadge } from "@/components/device/status";
import { CopyButton } from "@/components/ui/copy";
import { useNewDevices } from "@/features/enrollment/queries";
import type { CreatedEnrollmentKey, DeviceSummary } from "@/lib/api/types";
import { cn } from "@/lib/cn";
import { deviceName, systemName } from "@/lib/format/labels";

export function InstallLine({ created }: { created: CreatedEnrollmentKey }) {
  return (
    <div className="flex flex-col gap-2">
      <p className="text-sm">On the Linux machine, in a terminal as root or with sudo:</p>
      <pre
        data-testid="install-line"
        className="max-h-52 overflow-auto rounded-md border border-line bg-surface-2 p-3 font-mono text-xs leading-5 break-all whitespace-pre-wrap select-all"
      >
        {created.install.linux}
      </pre>
      <div className="flex flex-wrap items-center justify-between gap-2">
        <p className="text-xs text-muted">
          The key in it is shown this once. The line checks the server and the script before it runs
          anything.
        </p>
        <CopyButton value={created.install.linux} label="Copy the line" />
      </div>
    </div>
  );
}

export function WaitForDevice({ approval, onGo }: { approval: boolean; onGo: () => void }) {
  const found = useNewDevices();
  if (found.length === 0) {
    return (
      <div
        role="status"
        className="flex items-center gap-3 rounded-lg border border-dashed border-line px-4 py-3 text-sm"
      >
        <span className="relative flex size-2.5 shrink-0" aria-hidden>
          <span className="absolute inset-0 animate-ping rounded-full bg-accent opacity-60" />
          <span className="relative size-2.5 rounded-full bg-accent" />
        </span>
        <span>
          Waiting for the device
          <span className="block text-xs text-muted">
            {approval
              ? "It appears here once you let it in under Pending devices."
              : "It appears here by itself, usually within seconds."}
          </span>
        </span>
      </div>
    );
  }
  return (
    <ul role="status" className="flex flex-col gap-2">
      {found.map((device) => (
        <Found key={device.id} device={device} onGo={onGo} />
      ))}
    </ul>
  );
}

function Found({ device, onGo }: { device: DeviceSummary; onGo: () => void }) {
  const waits = device.status === "pending";
  const Icon = waits ? Hourglass : CircleCheck;
  const link = "font-medium text-accent-ink hover:underline";
  return (
    <li
      className={cn(
        "flex items-center gap-3 rounded-lg border px-4 py-3 text-sm",
        waits ? "border-warning/40 bg-warning-soft" : "border-online/40 bg-online-soft",
      )}
    >
      <Icon
        size={18}
        className={cn("shrink-0", waits ? "text-warning" : "text-online")}
        aria-hidden
      />
      <span className="min-w-0 flex-1">
        <span className="block truncate font-medium">
          {deviceName(device)} {waits ? "asks to be let in" : "is here"}
        </span>
        <span className="flex flex-wrap gap-x-2 text-xs text-muted">
          {systemName(device)} <StatusBadge device={device} />
        </span>
      </span>
      {waits ? (
        <Link to="/settings/pending-devices" className={link}>
          Look at it
        </Link>
      ) : (
        <Link
          to="/devices/$deviceId"
          params={{ deviceId: device.id }}
          onClick={onGo}
          className={link}
        >
          Open
        </Link>
      )}
    </li>
  );
}
