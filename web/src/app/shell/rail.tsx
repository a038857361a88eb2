// The left rail: where one is, and where one can go.
import { Link } from "@tanstack/react-router";
import { useQuery } from "@tanstack/react-query";
import { PanelLeftClose, PanelLeftOpen } from "lucide-react";
import { MAIN, SETTINGS, SYSTEM, type NavEntry } from "@/app/shell/nav";
import { ScopeSwitcher } from "@/app/shell/scope-switcher";
import { Tooltip } from "@/components/ui/tooltip";
import { pendingCountQuery } from "@/lib/api/shared-queries";
import { cn } from "@/lib/cn";

function Entry({
  entry,
  narrow,
  badge,
  onGo,
}: {
  entry: NavEntry;
  narrow: boolean;
  badge?: number;
  onGo?: () => void;
}) {
  const Icon = entry.icon;
  const link = (
    <Link
      to={entry.to}
      {...(onGo === undefined ? {} : { onClick: onGo })}
      activeOptions={{ exact: entry.to === "/", includeSearch: false }}
      className={cn(
        "flex h-8 items-center gap-2.5 rounded-md px-2.5 text-sm text-muted hover:bg-surface-2 hover:text-text max-md:h-10",
        narrow && "justify-center px-0",
      )}
      activeProps={{ className: "bg-surface-2 text-text font-medium", "aria-current": "page" }}
    >
      <Icon size={16} className="shrink-0" aria-hidden />
      <span className={cn("flex-1 truncate", narrow && "sr-only")}>{entry.label}</span>
      {badge !== undefined && badge > 0 && !narrow && (
        <span className="rounded-full bg-warning-soft px-1.5 text-2xs font-semibold text-warning tabular">
          {badge}
          <span className="sr-only"> waiting</span>
        </span>
      )}
    </Link>
  );
  return narrow ? (
    <Tooltip content={entry.label} side="right">
      {link}
    </Tooltip>
  ) : (
    link
  );
}

export function Rail({
  narrow,
  onToggle,
  onGo,
}: {
  narrow: boolean;
  onToggle?: () => void;
  onGo?: () => void;
}) {
  const { data: waiting } = useQuery(pendingCountQuery);
  const go = onGo === undefined ? {} : { onGo };
  return (
    <div className="flex h-full flex-col">
      <ScopeSwitcher narrow={narrow} {...go} />
      <nav aria-label="Main" className="flex flex-1 flex-col gap-0.5 overflow-auto px-2 py-2">
        {MAIN.map((entry) => (
          <Entry key={entry.to} entry={entry} narrow={narrow} {...go} />
        ))}
        <p className={cn("px-2.5 pt-4 pb-1 text-xs text-faint", narrow && "sr-only")}>Settings</p>
        {narrow && <div className="mx-2 my-2 h-px bg-line" aria-hidden />}
        {SETTINGS.map((entry) => (
          <Entry
            key={entry.to}
            entry={entry}
            narrow={narrow}
            {...(entry.to === "/settings/pending-devices" && waiting !== undefined
              ? { badge: waiting }
              : {})}
            {...go}
          />
        ))}
        <div className="flex-1" />
        {SYSTEM.map((entry) => (
          <Entry key={entry.to} entry={entry} narrow={narrow} {...go} />
        ))}
        {onToggle !== undefined && (
          <button
            type="button"
            onClick={onToggle}
            aria-label={narrow ? "Widen the rail" : "Narrow the rail"}
            className={cn(
              "flex h-8 items-center gap-2.5 rounded-md px-2.5 text-sm text-muted hover:bg-surface-2 hover:text-text",
              narrow && "justify-center px-0",
            )}
          >
            {narrow ? (
              <PanelLeftOpen size={16} aria-hidden />
            ) : (
              <PanelLeftClose size={16} aria-hidden />
            )}
            {!narrow && "Collapse"}
          </button>
        )}
      </nav>
    </div>
  );
}
