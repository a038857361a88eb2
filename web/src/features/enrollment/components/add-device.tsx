// Add a device: a key, a line to paste, and the wait until the device is there.
import { useState } from "react";
import { Button } from "@/components/ui/button";
import { Dialog } from "@/components/ui/dialog";
import { InstallLine, WaitForDevice } from "@/features/enrollment/components/install-line";
import { KeyForm } from "@/features/enrollment/components/key-form";
import { useCreateKey } from "@/features/enrollment/queries";
import type { CreatedEnrollmentKey } from "@/lib/api/types";

function nameFor(now: Date): string {
  return `Added on ${now.toISOString().slice(0, 10)}`;
}

export function AddDevice({ onClose }: { onClose: () => void }) {
  const [created, setCreated] = useState<CreatedEnrollmentKey | null>(null);
  const [defaults] = useState(() => ({ name: nameFor(new Date()) }));
  const create = useCreateKey();
  return (
    <Dialog
      open
      onClose={onClose}
      title="Add a device"
      description={
        created === null
          ? "First a key: it lets machines in until it expires or is revoked."
          : "Run this line on the machine."
      }
      className="max-w-xl"
      footer={
        created === null ? (
          <>
            <Button onClick={onClose}>Cancel</Button>
            <Button type="submit" form="add-device" variant="primary" busy={create.isPending}>
              Make the line
            </Button>
          </>
        ) : (
          <>
            <Button onClick={() => setCreated(null)}>Another key</Button>
            <Button onClick={onClose}>Done</Button>
          </>
        )
      }
    >
      {created === null ? (
        <KeyForm id="add-device" create={create} defaults={defaults} onCreated={setCreated} />
      ) : (
        <div className="flex flex-col gap-5">
          <InstallLine created={created} />
          <WaitForDevice approval={created.requires_approval} onGo={onClose} />
        </div>
      )}
    </Dialog>
  );
}
