// What is installed, searched on the server.
import { useInfiniteQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { SearchX } from "lucide-react";
import { useCallback, useEffect, useMemo, useState } from "react";
import { DataTable } from "@/components/data-table/table";
import type { Column } from "@/components/data-table/types";
import { SearchInput } from "@/components/ui/form";
import { Panel } from "@/components/ui/panel";
import { EmptyState, ProblemNote } from "@/components/ui/problem";
import { NotReported } from "@/features/device/components/inventory-state";
import { softwareQuery } from "@/features/device/queries";
import type { Software } from "@/lib/api/types";
import { known } from "@/lib/format/labels";
import { plural } from "@/lib/format/numbers";
import type { DeviceSearch } from "@/lib/url";

const TYPING_MS = 250;

function column(id: keyof Software, label: string, size: number, mono = false): Column<Software> {
  return {
    id,
    header: label,
    size,
    cell: ({ row }) => {
      const value = row.original[id];
      const shown = typeof value === "boolean" ? (value ? "Part of the system" : "") : value;
      return (
        <span className={mono ? "font-mono text-xs" : id === "name" ? "font-medium" : "text-muted"}>
          {known(shown)}
        </span>
      );
    },
    meta: { label },
  };
}

const COLUMNS: Column<Software>[] = [
  column("name", "Name", 260),
  column("version", "Version", 170, true),
  column("publisher", "Publisher", 190),
  column("source", "From", 90),
  column("architecture", "Architecture", 110),
  column("install_date", "Installed", 110),
];
const rowId = (row: Software) =>
  `${row.name}\u0000${row.version}\u0000${row.architecture}\u0000${row.source}\u0000${row.install_location}`;

export function SoftwareTab({ id, search }: { id: string; search: DeviceSearch }) {
  const navigate = useNavigate();
  const q = search.find ?? "";
  const [text, setText] = useState(q);
  useEffect(() => {
    if (text.trim() === q) return;
    const timer = setTimeout(() => {
      const find = text.trim() === "" ? undefined : text.trim();
      void navigate({
        to: "/devices/$deviceId",
        params: { deviceId: id },
        search: (now) => ({ ...now, find }),
        replace: true,
      });
    }, TYPING_MS);
    return () => clearTimeout(timer);
  }, [text, q, id, navigate]);

  const list = useInfiniteQuery(softwareQuery(id, q));
  const rows = useMemo(
    () => list.data?.pages.flatMap((page) => page?.data ?? []) ?? [],
    [list.data],
  );
  const first = list.data?.pages[0];
  const total = first?.total ?? 0;
  const { hasNextPage, isFetchingNextPage, fetchNextPage } = list;
  const onReach = useCallback(
    (index: number) => {
      if (index >= rows.length - 30 && hasNextPage && !isFetchingNextPage) void fetchNextPage();
    },
    [rows.length, hasNextPage, isFetchingNextPage, fetchNextPage],
  );
  if (list.isError && list.data === undefined) {
    return (
      <ProblemNote
        error={list.error}
        title="The software could not be listed"
        onRetry={() => void list.refetch()}
      />
    );
  }
  if (first === null) return <NotReported what="software" />;
  return (
    <Panel flush>
      <div className="flex flex-wrap items-center gap-3 border-b border-line px-4 py-3">
        <SearchInput
          label="Search software"
          className="w-72 max-w-full"
          value={text}
          onChange={(event) => setText(event.target.value)}
          placeholder="Search by name or publisher"
        />
        <span className="text-sm text-muted tabular" role="status">
          {list.data === undefined ? "" : plural(total, "program")}
        </span>
      </div>
      <DataTable
        name="software"
        label="Software"
        columns={COLUMNS}
        rows={rows}
        rowId={rowId}
        total={total}
        loading={list.isPending}
        onReach={onReach}
        auto
        compact={(row) => (
          <>
            <p className="truncate font-medium">{row.name}</p>
            <p className="truncate text-sm text-muted">
              {[row.version, row.publisher, row.source].filter((part) => part !== "").join(" · ")}
            </p>
          </>
        )}
        empty={
          <EmptyState icon={<SearchX size={20} aria-hidden />} title="No program matches">
            Try fewer letters.
          </EmptyState>
        }
      />
    </Panel>
  );
}
