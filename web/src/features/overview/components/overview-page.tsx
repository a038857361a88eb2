// The first page: is anything wrong, and where to look.
import { Link } from "@tanstack/react-router";
import { CircleX, Hourglass, Plus, TriangleAlert, Unplug } from "lucide-react";
import { useMemo, type ReactNode } from "react";
import { StatusMark } from "@/components/device/status";
import { buttonClass } from "@/components/ui/button";
import { Page, PageHeader, Panel, Skeleton } from "@/components/ui/panel";
import { ProblemNote } from "@/components/ui/problem";
import { DeviceList } from "@/features/overview/components/device-list";
import { IngestPanel } from "@/features/overview/components/ingest-panel";
import { useOverview } from "@/features/overview/queries";
import type { Overview } from "@/lib/api/types";
import { cn } from "@/lib/cn";
import { scopeName } from "@/lib/format/labels";
import { count, percent } from "@/lib/format/numbers";
import { useSession } from "@/lib/session";

export function OverviewPage(): ReactNode {
  const session = useSession();
  const { data, error, isError, refetch } = useOverview();
  if (isError && data === undefined) {
    return (
      <Page>
        <ProblemNote
          error={error}
          title="The overview could not be loaded"
          onRetry={() => void refetch()}
        />
      </Page>
    );
  }
  return (
    <Page>
      <PageHeader
        title="Overview"
        subtitle={scopeName(session.partner.name, session.organization.name)}
        actions={
          <Link
            to="."
            search={(now) => ({ ...now, add: "1" })}
            className={cn(buttonClass("primary"), "lg:hidden")}
          >
            <Plus size={15} aria-hidden /> Add a device
          </Link>
        }
      />
      {data?.devices.total === 0 && <FirstDevice />}
      <Counts devices={data?.devices} />
      <div className="grid gap-4 lg:grid-cols-3">
        <IngestPanel ingest={data?.ingest} />
        <DeviceList
          title="Busiest now"
          kind="busiest"
          devices={data?.busiest}
          empty="Nothing reports a load yet."
        />
        <DeviceList
          title="Offline the longest"
          kind="offline"
          devices={data?.offline_longest}
          empty="Every device is reachable."
        />
        <DeviceList
          title="Newest"
          kind="newest"
          devices={data?.newest}
          empty="Devices appear here as they are enrolled."
        />
      </div>
    </Page>
  );
}

function FirstDevice() {
  return (
    <Panel className="border-accent/40">
      <div className="flex flex-wrap items-center justify-between gap-3">
        <div>
          <h2 className="font-semibold">Add your first device</h2>
          <p className="text-sm text-muted">
            One line in a terminal; it appears here within seconds.
          </p>
        </div>
        <Link to="." search={(now) => ({ ...now, add: "1" })} className={buttonClass("primary")}>
          <Plus size={15} aria-hidden /> Add a device
        </Link>
      </div>
    </Panel>
  );
}

function Counts({ devices }: { devices: Overview["devices"] | undefined }) {
  const tiles = useMemo(() => {
    const of = (n: number | undefined) =>
      devices === undefined || devices.total === 0
        ? ""
        : `${percent(((n ?? 0) / devices.total) * 100, 0)} of all`;
    return [
      {
        key: "online",
        label: "Online",
        n: devices?.online,
        note: of(devices?.online),
        mark: <StatusMark status="online" />,
        filter: "status = online",
      },
      {
        key: "offline",
        label: "Offline",
        n: devices?.offline,
        note: of(devices?.offline),
        mark: <Unplug size={14} className="text-offline" aria-hidden />,
        filter: "status = offline",
      },
      {
        key: "warning",
        label: "Warning",
        n: devices?.warning,
        note: "by their own report",
        mark: <TriangleAlert size={14} className="text-warning" aria-hidden />,
        filter: "health = warning",
      },
      {
        key: "error",
        label: "Error",
        n: devices?.error,
        note: "by their own report",
        mark: <CircleX size={14} className="text-critical" aria-hidden />,
        filter: "health = error",
      },
    ];
  }, [devices]);
  return (
    <div className="grid grid-cols-2 gap-3 sm:gap-4 lg:grid-cols-5">
      {tiles.map((tile) => (
        <Link
          key={tile.key}
          to="/devices"
          search={{ filter: tile.filter }}
          className="flex flex-col gap-1 rounded-lg border border-line bg-surface px-4 py-3 hover:border-line-strong"
        >
          <Tile {...tile} />
        </Link>
      ))}
      <Link
        to="/settings/pending-devices"
        className="col-span-2 flex flex-col gap-1 rounded-lg border border-line bg-surface px-4 py-3 hover:border-line-strong lg:col-span-1"
      >
        <Tile
          label="Pending"
          n={devices?.pending}
          note="waiting for approval"
          mark={<Hourglass size={14} className="text-pending" aria-hidden />}
        />
      </Link>
    </div>
  );
}

function Tile({
  label,
  n,
  note,
  mark,
}: {
  label: string;
  n: number | undefined;
  note: string;
  mark: ReactNode;
}) {
  return (
    <>
      <span className="flex items-center gap-2 text-sm text-muted">
        {mark} {label}
      </span>
      <span
        className="text-2xl leading-8 font-semibold tracking-tight tabular"
        data-count={label.toLowerCase()}
      >
        {n === undefined ? <Skeleton className="my-1 h-6 w-12" /> : count(n)}
      </span>
      <span className="min-h-4 text-xs text-faint">{note}</span>
    </>
  );
}
