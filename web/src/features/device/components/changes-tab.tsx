// What the inventory was before: each version with what came, went and changed.
import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import {
  ChevronRight,
  Cpu,
  History,
  Minus,
  Network,
  PackageOpen,
  Pencil,
  Plus,
  type LucideIcon,
} from "lucide-react";
import { useMemo, useState } from "react";
import { Skeleton } from "@/components/ui/panel";
import { ProblemNote } from "@/components/ui/problem";
import { RelativeTime } from "@/components/ui/time";
import {
  changeName,
  fieldLabel,
  fieldValue,
  gist,
  restOf,
  sectionLabel,
  versionTitle,
} from "@/features/device/changes";
import { Choices } from "@/features/device/components/choices";
import { DayList } from "@/features/device/components/day-list";
import { byDay, missingRegions } from "@/features/device/events";
import { changesQuery, inventoryHistoryQuery } from "@/features/device/queries";
import type { InventoryChange, InventoryVersionInfo } from "@/lib/api/types";
import { cn } from "@/lib/cn";
import { SECTIONS, type DeviceSearch } from "@/lib/url";

const ICON: Record<string, LucideIcon> = {
  hardware: Cpu,
  network: Network,
  software: PackageOpen,
};

export function ChangesTab({ id, search }: { id: string; search: DeviceSearch }) {
  const list = useInfiniteQuery(inventoryHistoryQuery(id, search.section));
  const pages = list.data?.pages;
  const days = useMemo(() => byDay(pages?.flatMap((page) => page.data) ?? []), [pages]);
  const missing = useMemo(
    () => missingRegions([...new Set(pages?.flatMap((page) => page.missing_regions))], "versions"),
    [pages],
  );
  if (list.data === undefined && list.isError) {
    return (
      <ProblemNote
        error={list.error}
        title="The changes could not be loaded"
        onRetry={() => void list.refetch()}
      />
    );
  }
  const newest = days[0]?.[1][0]?.version;
  return (
    <div className="flex flex-col gap-4">
      <Choices
        id={id}
        label="Which part of the inventory"
        param="section"
        chosen={search.section}
        choices={SECTIONS.map((section) => [section, sectionLabel(section)])}
      />
      <DayList
        days={pages && days}
        missing={missing}
        empty={{
          title: "Nothing has changed yet",
          hint: "What is installed, removed or exchanged appears here when the agent reports it.",
        }}
        more={list}
      >
        {(versions) => (
          <ul className="divide-y divide-line">
            {versions.map((version) => (
              <Version
                key={version.version}
                id={id}
                version={version}
                opened={version.version === newest && version.first !== true}
              />
            ))}
          </ul>
        )}
      </DayList>
    </div>
  );
}

function Version({
  id,
  version,
  opened,
}: {
  id: string;
  version: InventoryVersionInfo;
  opened: boolean;
}) {
  const [open, setOpen] = useState(opened);
  const Icon = ICON[version.section] ?? History;
  return (
    <li>
      <button
        type="button"
        aria-expanded={open}
        onClick={() => setOpen(!open)}
        className="flex min-h-10 w-full items-center gap-3 px-4 py-2 text-left text-sm hover:bg-surface-2"
      >
        <Icon size={16} className="shrink-0 text-accent-ink" aria-hidden />
        <span className="min-w-0 flex-1 font-medium break-words">{versionTitle(version)}</span>
        <RelativeTime at={version.at} className="shrink-0 text-muted" dated />
        <ChevronRight
          size={14}
          className={cn("shrink-0 text-faint transition-transform", open && "rotate-90")}
          aria-hidden
        />
      </button>
      {open && <Changes id={id} version={version.version} section={version.section} />}
    </li>
  );
}

function Changes({ id, version, section }: { id: string; version: string; section: string }) {
  const query = useQuery(changesQuery(id, version));
  if (query.isError) {
    return (
      <div className="px-4 pb-4">
        <ProblemNote
          error={query.error}
          title="What changed could not be loaded"
          onRetry={() => void query.refetch()}
        />
      </div>
    );
  }
  if (query.data === undefined) {
    return (
      <div className="flex flex-col gap-2 px-4 pb-4 sm:pl-11" aria-busy>
        <Skeleton className="h-4 w-64 max-w-full" />
        <Skeleton className="h-4 w-52 max-w-full" />
      </div>
    );
  }
  const { changes, since, total } = query.data;
  if (since === null) {
    return (
      <p className="px-4 pb-3 text-sm text-muted sm:pl-11">
        The oldest version that is kept: there is nothing to compare it with.
      </p>
    );
  }
  const rest = restOf(total, changes.length);
  return (
    <div className="px-4 pb-4 sm:pl-11">
      {changes.length === 0 ? (
        <p className="text-sm text-muted">Nothing that is shown here is different.</p>
      ) : (
        <ul
          aria-label={`${sectionLabel(section)}: what changed`}
          className="max-h-[28rem] divide-y divide-line overflow-y-auto rounded-md border border-line"
        >
          {changes.map((change) => (
            <Change key={`${change.what}/${change.name}/${change.qualifier}`} change={change} />
          ))}
        </ul>
      )}
      <p className="mt-2 text-xs text-faint">
        Compared with what was reported <RelativeTime at={since.at} />
        {rest !== "" && ` · ${rest}`}
      </p>
    </div>
  );
}

const KIND: Record<InventoryChange["kind"], [LucideIcon, string, string]> = {
  added: [Plus, "text-online", "Added"],
  removed: [Minus, "text-critical", "Removed"],
  changed: [Pencil, "text-pending", "Changed"],
};

function Change({ change }: { change: InventoryChange }) {
  const [Icon, tone, word] = KIND[change.kind];
  const name = changeName(change);
  return (
    <li className="flex items-start gap-2.5 px-3 py-2 text-sm">
      <Icon size={14} className={cn("mt-0.5 shrink-0", tone)} aria-hidden />
      <div className="min-w-0 flex-1">
        <p className="break-words">
          <span className="sr-only">{word}: </span>
          {name !== "" && <span className="mr-2 font-medium">{name}</span>}
          {change.kind !== "changed" && (
            <span className="mr-2 font-mono text-xs text-muted">{gist(change)}</span>
          )}
          {change.qualifier !== "" && (
            <span className="text-xs whitespace-nowrap text-faint">{change.qualifier}</span>
          )}
        </p>
        {change.kind === "changed" && (
          <ul className="mt-0.5 flex flex-col gap-0.5 text-xs">
            {change.fields.map((field) => (
              <li key={field.field} className="break-words">
                <span className="text-muted">{fieldLabel(field.field)}</span>{" "}
                <span className="font-mono text-muted">
                  {fieldValue(field.field, field.before)}
                </span>{" "}
                <span className="text-faint" aria-label="became">
                  →
                </span>{" "}
                <span className="font-mono">{fieldValue(field.field, field.after)}</span>
              </li>
            ))}
          </ul>
        )}
      </div>
    </li>
  );
}
