// What happened to the device, newest first.
import { useInfiniteQuery } from "@tanstack/react-query";
import { CircleDot, History, PackageOpen, Plug, Unplug, type LucideIcon } from "lucide-react";
import { useMemo } from "react";
import { Button } from "@/components/ui/button";
import { Panel, Skeleton } from "@/components/ui/panel";
import { EmptyState, ProblemNote } from "@/components/ui/problem";
import { RelativeTime } from "@/components/ui/time";
import { eventLook, eventTitle, missingEvents, type EventLook } from "@/features/device/events";
import { eventsQuery } from "@/features/device/queries";

const ICON: Record<EventLook, [LucideIcon, string]> = {
  connected: [Plug, "text-online"],
  disconnected: [Unplug, "text-muted"],
  inventory: [PackageOpen, "text-accent"],
  other: [CircleDot, "text-faint"],
};

export function EventsTab({ id }: { id: string }) {
  const list = useInfiniteQuery(eventsQuery(id));
  const pages = list.data?.pages;
  const events = useMemo(() => pages?.flatMap((page) => page.data) ?? [], [pages]);
  const missing = useMemo(
    () => missingEvents([...new Set(pages?.flatMap((page) => page.missing_regions))]),
    [pages],
  );
  if (list.isPending) return <Skeleton className="h-40" />;
  if (list.data === undefined) {
    return (
      <ProblemNote
        error={list.error}
        title="The events could not be loaded"
        onRetry={() => void list.refetch()}
      />
    );
  }
  return (
    <Panel flush>
      {missing !== "" && (
        <p role="status" className="border-b border-line px-4 py-2 text-sm text-warning">
          {missing}
        </p>
      )}
      {events.length === 0 ? (
        <EmptyState icon={<History size={20} aria-hidden />} title="Nothing has happened yet">
          Connections, their ends and changes of the inventory appear here when they happen.
        </EmptyState>
      ) : (
        <ol aria-label="Events" className="divide-y divide-line">
          {events.map((event, at) => {
            const [Icon, tone] = ICON[eventLook(event.kind)];
            return (
              <li key={`${event.at}-${at}`} className="flex items-start gap-3 px-4 py-2.5">
                <Icon size={16} className={`mt-0.5 shrink-0 ${tone}`} aria-hidden />
                <span className="min-w-0 flex-1 text-sm break-words">
                  <span className="sr-only">{eventTitle(event.kind)}: </span>
                  {event.summary}
                </span>
                <RelativeTime at={event.at} className="shrink-0 text-sm text-muted" />
              </li>
            );
          })}
        </ol>
      )}
      {list.hasNextPage && (
        <div className="border-t border-line px-4 py-3">
          <Button onClick={() => void list.fetchNextPage()} busy={list.isFetchingNextPage}>
            Load more
          </Button>
        </div>
      )}
    </Panel>
  );
}
