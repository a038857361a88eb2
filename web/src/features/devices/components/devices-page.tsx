// The device list: the page a technician works from.
import { keepPreviousData, useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { Monitor, Plus, RotateCw, SearchX } from "lucide-react";
import { useCallback, useMemo, type ReactNode } from "react";
import { ColumnChooser } from "@/components/data-table/column-chooser";
import { useSelection } from "@/components/data-table/selection";
import { DataTable } from "@/components/data-table/table";
import { parseSort, sortText } from "@/components/data-table/types";
import { Button, buttonClass } from "@/components/ui/button";
import { EmptyState, ProblemNote } from "@/components/ui/problem";
import { DEVICE_COLUMNS, DeviceLine } from "@/features/devices/columns";
import { BulkBar } from "@/features/devices/components/bulk-bar";
import { CsvButton } from "@/features/devices/components/csv-button";
import { FilterBar } from "@/features/devices/components/filter-bar";
import { Peek } from "@/features/devices/components/peek";
import { ViewTabs } from "@/features/devices/components/view-tabs";
import {
  deviceCountsQuery,
  devicesQuery,
  useLiveDevices,
  type DeviceQuery,
} from "@/features/devices/queries";
import { cn } from "@/lib/cn";
import { count } from "@/lib/format/numbers";
import { useHotkeys } from "@/lib/hotkeys";
import type { DevicesSearch } from "@/lib/url";

const DEFAULT_SORT = "hostname";
const rowId = (device: { id: string }) => device.id;

export function DevicesPage(): ReactNode {
  const search = useSearch({ from: "/app/devices" });
  const navigate = useNavigate();
  const { q, filter, sort = DEFAULT_SORT, peek } = search;
  const query: DeviceQuery = useMemo(() => ({ q, filter, sort }), [q, filter, sort]);

  const list = useInfiniteQuery(devicesQuery(query));
  const counts = useQuery({ ...deviceCountsQuery(query), placeholderData: keepPreviousData });
  const rows = useMemo(() => list.data?.pages.flatMap((page) => page.data) ?? [], [list.data]);
  const ids = useMemo(() => rows.map(rowId), [rows]);
  const total = list.data?.pages[0]?.total ?? 0;
  const selection = useSelection(ids);
  const live = useLiveDevices(query, list.data?.pages.length ?? 0);

  const change = useCallback(
    (next: Partial<DevicesSearch>, replace = false) =>
      void navigate({
        to: "/devices",
        search: (now) => ({ ...now, peek: undefined, ...next }),
        replace,
      }),
    [navigate],
  );
  const onQ = useCallback((text: string) => change({ q: text }, true), [change]);
  const onFilter = useCallback((text: string) => change({ filter: text }), [change]);

  const { hasNextPage, isFetchingNextPage, fetchNextPage } = list;
  const onReach = useCallback(
    (index: number) => {
      if (index >= rows.length - 20 && hasNextPage && !isFetchingNextPage) void fetchNextPage();
    },
    [rows.length, hasNextPage, isFetchingNextPage, fetchNextPage],
  );
  const peeked = rows.find((row) => row.id === peek);
  useHotkeys({
    Escape: () => {
      if (peek !== undefined) change({ peek: undefined }, true);
      else selection.clear();
    },
  });

  const narrowed = (q ?? "") !== "" || (filter ?? "") !== "";
  return (
    <div className="relative flex h-full flex-col gap-3 pt-4">
      <header className="flex flex-wrap items-center justify-between gap-2 px-4 sm:px-6">
        <h1 className="text-xl font-semibold tracking-tight">
          Devices{" "}
          <span className="text-base font-normal text-muted tabular" data-testid="total">
            {list.data === undefined ? "" : count(total)}
          </span>
        </h1>
        <div className="flex items-center gap-2">
          <CsvButton query={query} total={total} />
          <ColumnChooser name="devices" columns={DEVICE_COLUMNS} />
          <Link
            to="."
            search={(now) => ({ ...now, add: "1" })}
            className={cn(buttonClass("primary"), "lg:hidden")}
          >
            <Plus size={15} aria-hidden /> Add <span className="max-sm:sr-only">a device</span>
          </Link>
        </div>
      </header>
      <ViewTabs search={search} />
      <FilterBar
        q={q ?? ""}
        filter={filter ?? ""}
        facets={counts.data?.facets}
        onQ={onQ}
        onFilter={onFilter}
      />
      {live.stale && (
        <div
          className="mx-4 flex items-center gap-3 rounded-md bg-accent-soft px-3 py-1.5 text-sm text-accent-ink sm:mx-6"
          role="status"
        >
          Devices came or went since this list was loaded.
          <button
            type="button"
            className="inline-flex items-center gap-1 font-medium hover:underline"
            onClick={live.refresh}
          >
            <RotateCw size={13} aria-hidden /> Load it again
          </button>
        </div>
      )}
      <div className="relative flex min-h-0 flex-1 border-t border-line">
        {list.isError && rows.length === 0 ? (
          <div className="w-full max-w-2xl p-4 sm:p-6">
            <ProblemNote
              error={list.error}
              title="The devices could not be listed"
              onRetry={() => void list.refetch()}
            />
          </div>
        ) : (
          <DataTable
            name="devices"
            label="Devices"
            columns={DEVICE_COLUMNS}
            rows={rows}
            rowId={rowId}
            total={total}
            loading={list.isPending}
            placeKey={JSON.stringify(query)}
            sort={parseSort(sort)}
            onSort={(next) => change({ sort: sortText(next) })}
            selection={selection}
            onReach={onReach}
            onOpen={(device) =>
              void navigate({ to: "/devices/$deviceId", params: { deviceId: device.id } })
            }
            onPeek={(device) => change({ peek: device.id === peek ? undefined : device.id }, true)}
            compact={(device) => <DeviceLine device={device} />}
            empty={
              narrowed ? (
                <NoMatch onClear={() => change({ q: undefined, filter: undefined })} />
              ) : (
                <NoDevices />
              )
            }
          />
        )}
        {peeked !== undefined && (
          <Peek device={peeked} onClose={() => change({ peek: undefined }, true)} />
        )}
      </div>
      <BulkBar
        selection={selection}
        rows={rows}
        total={total}
        query={query}
        besidePeek={peeked !== undefined}
      />
    </div>
  );
}

function NoMatch({ onClear }: { onClear: () => void }) {
  return (
    <EmptyState
      icon={<SearchX size={20} aria-hidden />}
      title="No device matches"
      action={<Button onClick={onClear}>Show all devices</Button>}
    >
      Loosen the search or the filter above.
    </EmptyState>
  );
}

function NoDevices() {
  return (
    <EmptyState
      icon={<Monitor size={20} aria-hidden />}
      title="No devices yet"
      action={
        <Link to="." search={(now) => ({ ...now, add: "1" })} className={buttonClass("primary")}>
          <Plus size={15} aria-hidden /> Add a device
        </Link>
      }
    >
      The machines you look after are listed here, with their state as it is this second. One line
      in a terminal adds the first.
    </EmptyState>
  );
}
