// Whose machine this is, how it is, and what one does with it most.
import { Link, useNavigate } from "@tanstack/react-router";
import { ChevronRight, MoreHorizontal, Pencil, RotateCcw, Trash2 } from "lucide-react";
import { useState } from "react";
import { StatusBadge, Tag } from "@/components/device/status";
import { Button, buttonClass } from "@/components/ui/button";
import { CopyText, useCopy } from "@/components/ui/copy";
import { Dialog } from "@/components/ui/dialog";
import { Menu, MenuItem, MenuLine } from "@/components/ui/menu";
import { ProblemNote } from "@/components/ui/problem";
import { toast } from "@/components/ui/toast";
import { EditDialog } from "@/features/device/components/edit-dialog";
import { useDecommission } from "@/features/device/queries";
import type { Tagged } from "@/lib/api/client";
import type { Device } from "@/lib/api/types";
import { deviceName, systemName } from "@/lib/format/labels";

export function DeviceHeader({ tagged }: { tagged: Tagged<Device> }) {
  const { data: device } = tagged;
  const [dialog, setDialog] = useState<"edit" | "decommission" | null>(null);
  const { copy } = useCopy();
  return (
    <header className="flex flex-col gap-2">
      <nav aria-label="Breadcrumb" className="flex items-center gap-1 text-xs text-muted">
        <Link to="/devices" className="hover:text-text hover:underline">
          Devices
        </Link>
        <ChevronRight size={12} aria-hidden />
        <span>{device.organization.name}</span>
        <ChevronRight size={12} aria-hidden />
        <Link
          to="/devices"
          search={{ filter: `site = "${device.site.name.replaceAll('"', '\\"')}"` }}
          className="hover:text-text hover:underline"
        >
          {device.site.name}
        </Link>
      </nav>
      <div className="flex flex-wrap items-start justify-between gap-3">
        <div className="flex min-w-0 flex-wrap items-center gap-x-3 gap-y-1">
          <h1 className="min-w-0 text-xl font-semibold tracking-tight break-all">
            {deviceName(device)}
          </h1>
          <StatusBadge device={device} className="text-sm" />
          {device.pending_reboot && (
            <span className="inline-flex items-center gap-1 rounded bg-warning-soft px-1.5 py-0.5 text-xs text-warning">
              <RotateCcw size={12} aria-hidden /> Waits for a restart
            </span>
          )}
        </div>
        <div className="flex items-center gap-2">
          <Button onClick={() => setDialog("edit")}>
            <Pencil size={13} aria-hidden /> Edit
          </Button>
          <Menu
            trigger={
              <button
                type="button"
                className={buttonClass("secondary", "icon")}
                aria-label="More actions"
              >
                <MoreHorizontal size={15} aria-hidden />
              </button>
            }
          >
            <MenuItem onSelect={() => copy(location.href)}>Copy a link to this page</MenuItem>
            <MenuItem onSelect={() => copy(device.id)}>Copy the device id</MenuItem>
            <MenuLine />
            <MenuItem danger onSelect={() => setDialog("decommission")}>
              <Trash2 size={14} aria-hidden /> Decommission…
            </MenuItem>
          </Menu>
        </div>
      </div>
      <div className="flex flex-wrap items-center gap-x-4 gap-y-1 text-sm text-muted">
        {device.display_name != null && <CopyText value={device.hostname} label="host name" />}
        <span>{systemName(device)}</span>
        {device.last_user != null && <span>{device.last_user}</span>}
        {device.primary_ip != null && <CopyText value={device.primary_ip} label="address" />}
        {device.public_ip != null && device.public_ip !== device.primary_ip && (
          <CopyText value={device.public_ip} label="public address" />
        )}
        <span className="flex flex-wrap gap-1">
          {device.tags.map((tag) => (
            <Tag key={tag}>{tag}</Tag>
          ))}
          <button
            type="button"
            className="text-xs text-accent-ink hover:underline"
            onClick={() => setDialog("edit")}
          >
            {device.tags.length === 0 ? "Add tags" : "Change"}
          </button>
        </span>
      </div>
      {dialog === "edit" && <EditDialog tagged={tagged} onClose={() => setDialog(null)} />}
      {dialog === "decommission" && (
        <Decommission tagged={tagged} onClose={() => setDialog(null)} />
      )}
    </header>
  );
}

function Decommission({ tagged, onClose }: { tagged: Tagged<Device>; onClose: () => void }) {
  const { data: device, etag } = tagged;
  const decommission = useDecommission(device.id);
  const navigate = useNavigate();
  const name = deviceName(device);
  return (
    <Dialog
      open
      onClose={onClose}
      title={`Decommission ${name}`}
      footer={
        <>
          <Button onClick={onClose}>Keep it</Button>
          <Button
            variant="danger"
            busy={decommission.isPending}
            onClick={() =>
              decommission.mutate(etag, {
                onSuccess: () => {
                  toast(`${name} is decommissioned.`);
                  void navigate({ to: "/devices" });
                },
              })
            }
          >
            Decommission {name}
          </Button>
        </>
      }
    >
      <div className="flex flex-col gap-3 text-sm">
        {decommission.isError && <ProblemNote error={decommission.error} />}
        <p>
          Its certificate is revoked within a second and its agent stops. This cannot be undone: to
          come back, the machine must be enrolled again.
        </p>
        <p className="text-muted">
          {device.organization.name} › {device.site.name}
        </p>
      </div>
    </Dialog>
  );
}
