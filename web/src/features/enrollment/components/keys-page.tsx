// Enrolment keys: what lets machines in.
import { useInfiniteQuery } from "@tanstack/react-query";
import { KeyRound, Plus } from "lucide-react";
import { useMemo, useState, type ReactNode } from "react";
import { DataTable } from "@/components/data-table/table";
import type { Column } from "@/components/data-table/types";
import { Button } from "@/components/ui/button";
import { Dialog } from "@/components/ui/dialog";
import { Page, PageHeader, Panel } from "@/components/ui/panel";
import { EmptyState, ProblemNote } from "@/components/ui/problem";
import { RelativeTime } from "@/components/ui/time";
import { toast } from "@/components/ui/toast";
import { InstallLine } from "@/features/enrollment/components/install-line";
import { KeyForm } from "@/features/enrollment/components/key-form";
import { KeyState } from "@/features/enrollment/components/key-state";
import { keysQuery, useCreateKey, useRevokeKey } from "@/features/enrollment/queries";
import type { CreatedEnrollmentKey, EnrollmentKey } from "@/lib/api/types";
import { count, plural } from "@/lib/format/numbers";

const rowId = (key: EnrollmentKey) => key.id;

function uses(key: EnrollmentKey): string {
  return key.max_uses == null ? count(key.uses) : `${count(key.uses)} of ${count(key.max_uses)}`;
}

function columns(onRevoke: (key: EnrollmentKey) => void): Column<EnrollmentKey>[] {
  const of = (
    id: string,
    label: string,
    size: number,
    cell: (key: EnrollmentKey) => ReactNode,
  ): Column<EnrollmentKey> => ({
    id,
    header: label,
    size,
    cell: ({ row }) => cell(row.original),
    meta: { label },
  });
  return [
    of("name", "Name", 220, (key) => <span className="font-medium">{key.name}</span>),
    of("state", "State", 110, (key) => <KeyState state={key.state} />),
    of("uses", "Devices", 100, uses),
    of("expires", "Expires", 120, (key) =>
      key.expires_at == null ? (
        <span className="text-muted">Never</span>
      ) : (
        <RelativeTime at={key.expires_at} />
      ),
    ),
    of("approval", "Approval", 110, (key) =>
      key.requires_approval ? "Needed" : <span className="text-muted">Not needed</span>,
    ),
    of("site", "Site", 140, (key) => key.site.name),
    of("created", "Created", 200, (key) => (
      <span className="text-muted">
        <RelativeTime at={key.created_at} />
        {key.created_by !== "" && ` by ${key.created_by}`}
      </span>
    )),
    of("revoke", "", 90, (key) =>
      key.state === "revoked" ? null : (
        <Button
          size="sm"
          variant="dangerGhost"
          onClick={() => onRevoke(key)}
          aria-label={`Revoke ${key.name}`}
        >
          Revoke
        </Button>
      ),
    ),
  ];
}

export function KeysPage(): ReactNode {
  const list = useInfiniteQuery(keysQuery);
  const [creating, setCreating] = useState(false);
  const [revoking, setRevoking] = useState<EnrollmentKey | null>(null);
  const shown = useMemo(() => columns(setRevoking), []);
  const rows = useMemo(() => list.data?.pages.flatMap((page) => page.data) ?? [], [list.data]);
  const { hasNextPage, isFetchingNextPage, fetchNextPage } = list;
  const create = (
    <Button variant="primary" onClick={() => setCreating(true)}>
      <Plus size={15} aria-hidden /> Create a key
    </Button>
  );
  return (
    <Page>
      <PageHeader
        title="Enrolment keys"
        subtitle="A key lets machines in until it expires, is used up or is revoked."
        actions={create}
      />
      {list.isError && rows.length === 0 ? (
        <ProblemNote
          error={list.error}
          title="The keys could not be listed"
          onRetry={() => void list.refetch()}
        />
      ) : (
        <Panel flush>
          <DataTable
            name="enrolment-keys"
            label="Enrolment keys"
            columns={shown}
            rows={rows}
            rowId={rowId}
            total={list.data?.pages[0]?.total ?? 0}
            loading={list.isPending}
            onReach={(index) => {
              if (index >= rows.length - 10 && hasNextPage && !isFetchingNextPage)
                void fetchNextPage();
            }}
            auto
            compact={(key) => (
              <div className="flex items-center justify-between gap-3">
                <div className="min-w-0">
                  <p className="truncate font-medium">{key.name}</p>
                  <p className="flex items-center gap-2 text-sm text-muted">
                    <KeyState state={key.state} />{" "}
                    <span className="truncate">{uses(key)} used</span>
                  </p>
                </div>
                {key.state !== "revoked" && (
                  <Button
                    size="sm"
                    variant="dangerGhost"
                    onClick={() => setRevoking(key)}
                    aria-label={`Revoke ${key.name}`}
                  >
                    Revoke
                  </Button>
                )}
              </div>
            )}
            empty={
              <EmptyState
                icon={<KeyRound size={20} aria-hidden />}
                title="No keys yet"
                action={create}
              >
                A machine needs a key to be enrolled. One key can serve a whole site.
              </EmptyState>
            }
          />
        </Panel>
      )}
      {creating && <CreateDialog onClose={() => setCreating(false)} />}
      {revoking !== null && (
        <RevokeDialog enrollmentKey={revoking} onClose={() => setRevoking(null)} />
      )}
    </Page>
  );
}

function CreateDialog({ onClose }: { onClose: () => void }) {
  const create = useCreateKey();
  const [created, setCreated] = useState<CreatedEnrollmentKey | null>(null);
  return (
    <Dialog
      open
      onClose={onClose}
      keepOpen={created !== null}
      title={created === null ? "Create an enrolment key" : created.name}
      className="max-w-xl"
      footer={
        created === null ? (
          <>
            <Button onClick={onClose}>Cancel</Button>
            <Button type="submit" form="create-key" variant="primary" busy={create.isPending}>
              Create the key
            </Button>
          </>
        ) : (
          <Button onClick={onClose}>I have copied it</Button>
        )
      }
    >
      {created === null ? (
        <KeyForm id="create-key" create={create} onCreated={setCreated} />
      ) : (
        <InstallLine created={created} />
      )}
    </Dialog>
  );
}

function RevokeDialog({
  enrollmentKey,
  onClose,
}: {
  enrollmentKey: EnrollmentKey;
  onClose: () => void;
}) {
  const revoke = useRevokeKey();
  return (
    <Dialog
      open
      onClose={onClose}
      title={`Revoke ${enrollmentKey.name}`}
      footer={
        <>
          <Button onClick={onClose}>Keep it</Button>
          <Button
            variant="danger"
            busy={revoke.isPending}
            onClick={() =>
              revoke.mutate(enrollmentKey.id, {
                onSuccess: () => {
                  toast(`${enrollmentKey.name} is revoked.`);
                  onClose();
                },
              })
            }
          >
            Revoke the key
          </Button>
        </>
      }
    >
      <div className="flex flex-col gap-3 text-sm">
        {revoke.isError && <ProblemNote error={revoke.error} />}
        <p>
          No new machine can be enrolled with it from now on. The{" "}
          {plural(enrollmentKey.uses, "device")} it let in{" "}
          {enrollmentKey.uses === 1 ? "stays" : "stay"} enrolled.
        </p>
      </div>
    </Dialog>
  );
}
