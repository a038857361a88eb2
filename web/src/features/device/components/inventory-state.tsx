// The frame of an inventory: loading, failed, not reported yet, or there with its age.
import type { UseQueryResult } from "@tanstack/react-query";
import { PackageOpen } from "lucide-react";
import type { ReactNode } from "react";
import { FactsSkeleton, Panel } from "@/components/ui/panel";
import { EmptyState, ProblemNote } from "@/components/ui/problem";
import { RelativeTime } from "@/components/ui/time";

export function NotReported({ what }: { what: string }) {
  return (
    <Panel>
      <EmptyState icon={<PackageOpen size={20} aria-hidden />} title={`No ${what} yet`}>
        The agent sends it within a minute of its start, and again when it changes.
      </EmptyState>
    </Panel>
  );
}

export function Inventory<T extends { updated_at: string }>({
  query,
  what,
  rows,
  children,
}: {
  query: UseQueryResult<T | null>;
  what: string;
  rows: number;
  children: (data: T) => ReactNode;
}) {
  if (query.isError) {
    return (
      <ProblemNote
        error={query.error}
        title={`The ${what} could not be loaded`}
        onRetry={() => void query.refetch()}
      />
    );
  }
  if (query.data === undefined) {
    return (
      <Panel title={<span className="inline-block h-4 w-24 skeleton" />}>
        <FactsSkeleton rows={rows} />
      </Panel>
    );
  }
  if (query.data === null) return <NotReported what={what} />;
  return (
    <div className="flex flex-col gap-4">
      {children(query.data)}
      <p className="text-xs text-faint">
        Reported <RelativeTime at={query.data.updated_at} />
      </p>
    </div>
  );
}
