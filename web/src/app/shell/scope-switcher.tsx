// Whose machines these are: partner > organization > site. A site narrows the device list.
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useRouterState } from "@tanstack/react-router";
import { Building2, Check, ChevronsUpDown, MapPin, Search } from "lucide-react";
import { useState } from "react";
import { Logo } from "@/components/brand/logo";
import { Popover } from "@/components/ui/menu";
import { sitesQuery } from "@/lib/api/shared-queries";
import { cn } from "@/lib/cn";
import { facetValues, toggleFacet } from "@/lib/filter/chips";
import { useSession } from "@/lib/session";
import { compact, textParam } from "@/lib/url";

export function ScopeSwitcher({ narrow, onGo }: { narrow: boolean; onGo?: () => void }) {
  const session = useSession();
  const [open, setOpen] = useState(false);
  const [text, setText] = useState("");
  const { data: sites = [] } = useQuery(sitesQuery);
  const navigate = useNavigate();
  const filter = useRouterState({
    select: ({ location }) =>
      location.pathname === "/devices"
        ? (textParam((location.search as Record<string, unknown>).filter) ?? "")
        : "",
  });
  const chosen = facetValues(filter, "site")[0];
  const only = sites.length === 1 ? sites[0]?.name : undefined;
  const site = chosen ?? only;
  const shown = sites.filter((entry) =>
    entry.name.toLowerCase().includes(text.trim().toLowerCase()),
  );

  const choose = (name: string | null) => {
    const cleared = facetValues(filter, "site").reduce(
      (rest, value) => toggleFacet(rest, "site", value),
      filter,
    );
    const next = name === null ? cleared : toggleFacet(cleared, "site", name);
    setOpen(false);
    onGo?.();
    void navigate({ to: "/devices", search: compact({ filter: next === "" ? undefined : next }) });
  };

  return (
    <div className="flex h-12 shrink-0 items-center border-b border-line px-2">
      <Popover
        label="Scope"
        open={open}
        onOpenChange={setOpen}
        className="w-72 p-0"
        trigger={
          <button
            type="button"
            aria-label={`Scope: ${session.partner.name}, ${session.organization.name}, ${site ?? "all sites"}`}
            className={cn(
              "flex w-full min-w-0 items-center gap-2.5 rounded-md px-1.5 py-1 text-left hover:bg-surface-2",
              narrow && "justify-center",
            )}
          >
            <Logo />
            {!narrow && (
              <>
                <span className="min-w-0 flex-1 leading-tight">
                  <span className="block truncate text-sm font-semibold">
                    {session.organization.name}
                  </span>
                  <span className="block truncate text-2xs text-muted">
                    {session.partner.name !== session.organization.name &&
                      `${session.partner.name} · `}
                    {site ?? "All sites"}
                  </span>
                </span>
                <ChevronsUpDown size={14} className="shrink-0 text-faint" aria-hidden />
              </>
            )}
          </button>
        }
      >
        <label className="flex items-center gap-2 border-b border-line px-3 py-2">
          <Search size={14} className="text-faint" aria-hidden />
          <span className="sr-only">Search sites</span>
          <input
            value={text}
            onChange={(event) => setText(event.target.value)}
            placeholder="Search sites"
            className="w-full bg-transparent text-sm outline-none"
          />
        </label>
        <div className="max-h-72 overflow-auto p-1">
          <p className="px-2 pt-1.5 text-xs text-faint">{session.partner.name}</p>
          <ScopeRow
            icon={<Building2 size={14} aria-hidden />}
            label={session.organization.name}
            hint="All sites"
            active={chosen === undefined}
            onChoose={() => choose(null)}
          />
          {shown.map((entry) => (
            <ScopeRow
              key={entry.id}
              indent
              icon={<MapPin size={14} aria-hidden />}
              label={entry.name}
              active={chosen === entry.name}
              onChoose={() => choose(entry.name)}
            />
          ))}
          {shown.length === 0 && (
            <p className="px-2 py-1.5 text-sm text-muted">No site of that name.</p>
          )}
        </div>
      </Popover>
    </div>
  );
}

function ScopeRow(props: {
  icon: React.ReactNode;
  label: string;
  hint?: string;
  active: boolean;
  indent?: boolean;
  onChoose: () => void;
}) {
  return (
    <button
      type="button"
      onClick={props.onChoose}
      aria-current={props.active}
      className={cn(
        "flex w-full items-center gap-2 rounded-md px-2 py-1.5 text-left text-sm hover:bg-surface-2",
        props.indent === true && "pl-6",
      )}
    >
      <span className="text-faint">{props.icon}</span>
      <span className="min-w-0 flex-1 truncate">{props.label}</span>
      {props.hint !== undefined && <span className="text-xs text-faint">{props.hint}</span>}
      <Check
        size={14}
        className={cn("text-accent-ink", !props.active && "invisible")}
        aria-hidden
      />
    </button>
  );
}
