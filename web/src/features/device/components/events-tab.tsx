// What happened to the device, newest first.
import { useInfiniteQuery } from "@tanstack/react-query";
import {
  ArrowDownToDot,
  ArrowUpFromDot,
  CircleDot,
  Circle,
  CircleEllipsis,
  PackageOpen,
  type LucideIcon,
} from "lucide-react";
import { useMemo } from "react";
import { ProblemNote } from "@/components/ui/problem";
import { RelativeTime } from "@/components/ui/time";
import { Choices } from "@/features/device/components/choices";
import { DayList } from "@/features/device/components/day-list";
import {
  byDay,
  eventLook,
  eventTitle,
  missingRegions,
  type EventLook,
} from "@/features/device/events";
import { eventsQuery, EVENT_KINDS } from "@/features/device/queries";
import { EVENT_CHOICES, type DeviceSearch } from "@/lib/url";

const ICON: Record<EventLook, [LucideIcon, string]> = {
  online: [Circle, "scale-75 fill-current text-online"],
  offline: [Circle, "scale-75 text-muted"],
  connected: [ArrowDownToDot, "text-faint"],
  disconnected: [ArrowUpFromDot, "text-faint"],
  inventory: [PackageOpen, "text-accent-ink"],
  left_out: [CircleEllipsis, "text-warning"],
  other: [CircleDot, "text-faint"],
};

const CHOICE_LABEL = {
  presence: "Online and offline",
  connections: "Connections",
  inventory: "Inventory",
} as const;

export function EventsTab({ id, search }: { id: string; search: DeviceSearch }) {
  const list = useInfiniteQuery(
    eventsQuery(id, search.events === undefined ? [] : EVENT_KINDS[search.events]),
  );
  const pages = list.data?.pages;
  const days = useMemo(() => byDay(pages?.flatMap((page) => page.data) ?? []), [pages]);
  const missing = useMemo(
    () => missingRegions([...new Set(pages?.flatMap((page) => page.missing_regions))], "events"),
    [pages],
  );
  if (list.data === undefined && list.isError) {
    return (
      <ProblemNote
        error={list.error}
        title="The events could not be loaded"
        onRetry={() => void list.refetch()}
      />
    );
  }
  return (
    <div className="flex flex-col gap-4">
      <Choices
        id={id}
        label="Which events"
        param="events"
        chosen={search.events}
        choices={EVENT_CHOICES.map((choice) => [choice, CHOICE_LABEL[choice]])}
      />
      <DayList
        days={pages && days}
        missing={missing}
        empty={{
          title: "Nothing has happened yet",
          hint:
            search.events === undefined
              ? "Connections, their ends and changes of the inventory appear here when they happen."
              : "No event of this kind is kept.",
        }}
        more={list}
      >
        {(events) => (
          <ol className="divide-y divide-line">
            {events.map((event, at) => {
              const [Icon, tone] = ICON[eventLook(event.kind)];
              return (
                <li
                  key={`${event.at}-${event.kind}-${at}`}
                  className="flex items-start gap-3 px-4 py-2"
                >
                  <Icon size={16} className={`mt-0.5 shrink-0 ${tone}`} aria-hidden />
                  <span className="min-w-0 flex-1 text-sm break-words">
                    <span className="sr-only">{eventTitle(event.kind)}: </span>
                    {event.summary}
                  </span>
                  <RelativeTime at={event.at} className="shrink-0 text-sm text-muted" dated />
                </li>
              );
            })}
          </ol>
        )}
      </DayList>
    </div>
  );
}
