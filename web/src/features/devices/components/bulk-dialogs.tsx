// The dialogs of the bulk bar. A destructive one names the machines it will touch.
import { useState } from "react";
import { Button } from "@/components/ui/button";
import { Dialog } from "@/components/ui/dialog";
import { Field, Input } from "@/components/ui/form";
import { Tag } from "@/components/device/status";
import type { BulkProgress } from "@/features/devices/bulk";
import type { TagChange } from "@/features/devices/components/bulk-bar";
import type { DeviceSummary } from "@/lib/api/types";
import { deviceName } from "@/lib/format/labels";
import { count, plural } from "@/lib/format/numbers";

const NAMED_MAX = 12;

function words(text: string): string[] {
  return [
    ...new Set(
      text
        .split(/[,\s]+/)
        .map((word) => word.trim())
        .filter((word) => word !== ""),
    ),
  ];
}

export function TagDialog({
  devices,
  onClose,
  onApply,
}: {
  devices: DeviceSummary[];
  onClose: () => void;
  onApply: (change: TagChange) => void;
}) {
  const [add, setAdd] = useState("");
  const [remove, setRemove] = useState<string[]>([]);
  const present = [...new Set(devices.flatMap((device) => device.tags))].sort();
  const adding = words(add);
  const nothing = adding.length === 0 && remove.length === 0;
  return (
    <Dialog
      open
      onClose={onClose}
      title={`Tag ${plural(devices.length, "device")}`}
      footer={
        <>
          <Button onClick={onClose}>Cancel</Button>
          <Button
            variant="primary"
            disabled={nothing}
            onClick={() => onApply({ add: adding, remove })}
          >
            Change tags of {plural(devices.length, "device")}
          </Button>
        </>
      }
    >
      <div className="flex flex-col gap-4">
        <Field label="Add" help="Separate tags with commas or spaces.">
          {(control) => (
            <Input
              {...control}
              value={add}
              onChange={(event) => setAdd(event.target.value)}
              placeholder="patched, floor-2"
            />
          )}
        </Field>
        {present.length > 0 && (
          <fieldset>
            <legend className="mb-1 text-sm font-medium">Remove</legend>
            <div className="flex flex-wrap gap-1.5">
              {present.map((tag) => {
                const going = remove.includes(tag);
                return (
                  <button
                    key={tag}
                    type="button"
                    aria-pressed={going}
                    className={going ? "line-through opacity-60" : ""}
                    onClick={() =>
                      setRemove(going ? remove.filter((t) => t !== tag) : [...remove, tag])
                    }
                  >
                    <Tag>{tag}</Tag>
                  </button>
                );
              })}
            </div>
          </fieldset>
        )}
      </div>
    </Dialog>
  );
}

export function DecommissionDialog({
  devices,
  onClose,
  onConfirm,
}: {
  devices: DeviceSummary[];
  onClose: () => void;
  onConfirm: () => void;
}) {
  const sites = new Set(devices.map((device) => device.site.name));
  const named = devices.slice(0, NAMED_MAX);
  const what =
    devices.length === 1
      ? deviceName(devices[0] as DeviceSummary)
      : plural(devices.length, "device");
  return (
    <Dialog
      open
      onClose={onClose}
      title={`Decommission ${what}`}
      footer={
        <>
          <Button onClick={onClose}>Keep {devices.length === 1 ? "it" : "them"}</Button>
          <Button variant="danger" onClick={onConfirm}>
            Decommission {plural(devices.length, "device")}
          </Button>
        </>
      }
    >
      <div className="flex flex-col gap-3 text-sm">
        <p>
          {devices.length === 1 ? "Its certificate is" : "Their certificates are"} revoked within a
          second and the agent stops. This cannot be undone: to come back, a machine must be
          enrolled again.
        </p>
        <p className="text-muted">
          {plural(devices.length, "device")} in {plural(sites.size, "site")}:
        </p>
        <ul className="max-h-48 overflow-auto rounded-md border border-line px-3 py-2">
          {named.map((device) => (
            <li key={device.id} className="flex justify-between gap-3 py-0.5">
              <span className="truncate font-medium">{deviceName(device)}</span>
              <span className="truncate text-muted">{device.site.name}</span>
            </li>
          ))}
          {devices.length > NAMED_MAX && (
            <li className="py-0.5 text-muted">and {count(devices.length - NAMED_MAX)} more</li>
          )}
        </ul>
      </div>
    </Dialog>
  );
}

export function BulkResult({
  progress,
  onStop,
  onClose,
}: {
  progress: BulkProgress;
  onStop: () => void;
  onClose: () => void;
}) {
  const { done, total, failed } = progress;
  const finished = done >= total;
  return (
    <Dialog
      open
      keepOpen={!finished}
      onClose={onClose}
      title={
        finished ? `Done: ${count(done - failed.length)} of ${plural(total, "device")}` : "Working"
      }
      footer={
        finished ? (
          <Button onClick={onClose}>Close</Button>
        ) : (
          <Button
            onClick={() => {
              onStop();
              onClose();
            }}
          >
            Stop here
          </Button>
        )
      }
    >
      <div className="flex flex-col gap-3 text-sm">
        <progress
          className="h-2 w-full accent-accent"
          max={Math.max(total, 1)}
          value={done}
          aria-label="Progress"
        />
        <p className="text-muted tabular" role="status">
          {count(done)} of {count(total)}
          {failed.length > 0 && `, ${count(failed.length)} failed`}
        </p>
        {failed.length > 0 && (
          <ul className="max-h-48 overflow-auto">
            {failed.slice(0, 100).map(({ device, problem }) => (
              <li key={device.id} className="py-0.5">
                <span className="font-medium">{deviceName(device)}</span>: {problem.title}
                {problem.detail !== "" && ` ${problem.detail}`}
              </li>
            ))}
          </ul>
        )}
      </div>
    </Dialog>
  );
}
