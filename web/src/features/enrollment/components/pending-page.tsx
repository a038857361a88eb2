// Devices that wait to be let in.
import { useInfiniteQuery } from "@tanstack/react-query";
import { Check, Hourglass } from "lucide-react";
import { useMemo, useState, type ReactNode } from "react";
import { Button } from "@/components/ui/button";
import { Dialog } from "@/components/ui/dialog";
import { Page, PageHeader, Panel, Skeleton } from "@/components/ui/panel";
import { EmptyState, ProblemNote } from "@/components/ui/problem";
import { RelativeTime } from "@/components/ui/time";
import { toast } from "@/components/ui/toast";
import { pendingQuery, useDecidePending } from "@/features/enrollment/queries";
import type { PendingDevice } from "@/lib/api/types";
import { systemName } from "@/lib/format/labels";

export function PendingPage(): ReactNode {
  const list = useInfiniteQuery(pendingQuery);
  const decide = useDecidePending();
  const [rejecting, setRejecting] = useState<PendingDevice | null>(null);
  const devices = useMemo(() => list.data?.pages.flatMap((page) => page.data) ?? [], [list.data]);
  const approve = (device: PendingDevice) =>
    decide.mutate(
      { id: device.id, approve: true },
      { onSuccess: () => toast(`${device.hostname} is let in.`) },
    );
  return (
    <Page>
      <PageHeader
        title="Pending devices"
        subtitle="Machines enrolled with a key that asks for approval. They do nothing until you let them in."
      />
      {list.isError && devices.length === 0 && (
        <ProblemNote
          error={list.error}
          title="The pending devices could not be listed"
          onRetry={() => void list.refetch()}
        />
      )}
      {decide.isError && (
        <ProblemNote error={decide.error} onRetry={() => decide.reset()} retryLabel="Close" />
      )}
      <Panel flush>
        {list.isPending && (
          <div className="flex h-16 items-center px-4">
            <Skeleton className="w-64" />
          </div>
        )}
        <ul>
          {devices.map((device) => (
            <li
              key={device.id}
              className="flex flex-wrap items-center gap-x-4 gap-y-2 border-b border-line px-4 py-3 last:border-0"
            >
              <Hourglass size={16} className="shrink-0 text-pending" aria-hidden />
              <div className="min-w-0 flex-1">
                <p className="truncate font-medium">{device.hostname}</p>
                <p className="text-sm text-muted">
                  {systemName(device)} · {device.architecture}
                  {device.address !== "" && (
                    <>
                      {" "}
                      · <span className="font-mono text-xs">{device.address}</span>
                    </>
                  )}
                  {device.serial_number !== "" && ` · ${device.serial_number}`}
                </p>
                <p className="text-xs text-faint">
                  Asked <RelativeTime at={device.requested_at} /> with the key{" "}
                  {device.enrollment_key.name}
                </p>
              </div>
              <div className="flex gap-2">
                <Button variant="dangerGhost" onClick={() => setRejecting(device)}>
                  Reject
                </Button>
                <Button
                  variant="primary"
                  onClick={() => approve(device)}
                  busy={decide.isPending && decide.variables.id === device.id}
                >
                  <Check size={14} aria-hidden /> Let it in
                </Button>
              </div>
            </li>
          ))}
        </ul>
        {list.data !== undefined && devices.length === 0 && (
          <EmptyState icon={<Hourglass size={20} aria-hidden />} title="Nothing waits">
            When a key asks for approval, its machines appear here.
          </EmptyState>
        )}
        {list.hasNextPage && (
          <div className="px-4 py-3">
            <Button onClick={() => void list.fetchNextPage()} busy={list.isFetchingNextPage}>
              Show more
            </Button>
          </div>
        )}
      </Panel>
      {rejecting !== null && (
        <Dialog
          open
          onClose={() => setRejecting(null)}
          title={`Reject ${rejecting.hostname}`}
          footer={
            <>
              <Button onClick={() => setRejecting(null)}>Leave it waiting</Button>
              <Button
                variant="danger"
                onClick={() => {
                  const { id, hostname } = rejecting;
                  setRejecting(null);
                  decide.mutate(
                    { id, approve: false },
                    { onSuccess: () => toast(`${hostname} is turned away.`) },
                  );
                }}
              >
                Reject the device
              </Button>
            </>
          }
        >
          <p className="text-sm">
            Its agent is told so and stops asking. To let it in later, it must be enrolled again.
          </p>
        </Dialog>
      )}
    </Page>
  );
}
