// What is kept of a device, newest first: pages of entries under their days.
import { History } from "lucide-react";
import type { ReactNode } from "react";
import { Button } from "@/components/ui/button";
import { Panel, Skeleton } from "@/components/ui/panel";
import { EmptyState } from "@/components/ui/problem";

export function DayList<Entry>({
  days,
  missing,
  empty,
  more,
  children,
}: {
  /** While it loads, none. */
  days: [day: string, entries: Entry[]][] | undefined;
  /** What cannot be shown, and why; empty when all is there. */
  missing: string;
  empty: { title: string; hint: string };
  more: {
    hasNextPage: boolean;
    isFetchingNextPage: boolean;
    fetchNextPage: () => Promise<unknown>;
  };
  /** The entries of one day, as a list. */
  children: (entries: Entry[]) => ReactNode;
}) {
  if (days === undefined) return <Skeleton className="h-40" />;
  return (
    <Panel flush>
      {missing !== "" && (
        <p role="status" className="border-b border-line px-4 py-2 text-sm text-warning">
          {missing}
        </p>
      )}
      {days.length === 0 ? (
        <EmptyState icon={<History size={20} aria-hidden />} title={empty.title}>
          {empty.hint}
        </EmptyState>
      ) : (
        days.map(([day, entries]) => (
          <section key={day} aria-label={day} className="border-b border-line last:border-0">
            <h2 className="bg-surface-2 px-4 py-1.5 text-xs font-medium text-muted">{day}</h2>
            {children(entries)}
          </section>
        ))
      )}
      {more.hasNextPage && (
        <div className="border-t border-line px-4 py-3">
          <Button onClick={() => void more.fetchNextPage()} busy={more.isFetchingNextPage}>
            Load more
          </Button>
        </div>
      )}
    </Panel>
  );
}
