// The bar at the top: palette, live connection, the person.
import { useNavigate } from "@tanstack/react-router";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { LogOut, Menu as MenuIcon, Plus, Search } from "lucide-react";
import { Button, buttonClass } from "@/components/ui/button";
import { Menu, MenuChoice, MenuItem, MenuLabel, MenuLine } from "@/components/ui/menu";
import { Kbd } from "@/components/ui/panel";
import { Tooltip } from "@/components/ui/tooltip";
import { api, setCsrfToken, unwrap } from "@/lib/api/client";
import { cn } from "@/lib/cn";
import { humanize } from "@/lib/format/labels";
import type { LiveState } from "@/lib/live/client";
import { live, useLiveState } from "@/lib/live/hooks";
import { useSession } from "@/lib/session";
import { useStore } from "@/lib/store";
import { chooseTheme, themeChoice, type ThemeChoice } from "@/lib/theme";

const LIVE: Record<LiveState, { label: string; hint: string; mark: string }> = {
  live: {
    label: "Live",
    hint: "Changes are shown as they happen.",
    mark: "bg-online rounded-full",
  },
  connecting: {
    label: "Connecting",
    hint: "The live connection is being opened.",
    mark: "border-2 border-pending rounded-full",
  },
  waiting: {
    label: "Reconnecting",
    hint: "The live connection is lost. It is tried again by itself; what you see may be old.",
    mark: "border-2 border-critical rounded-sm",
  },
  off: {
    label: "Not live",
    hint: "There is no live connection. Reload the page to get one.",
    mark: "border-2 border-offline rounded-sm",
  },
};

export function LiveIndicator() {
  const state = useLiveState();
  const shown = LIVE[state];
  return (
    <Tooltip content={shown.hint} side="bottom">
      <span
        role="status"
        data-live={state}

        tabIndex={0}
        className="inline-flex items-center gap-1.5 rounded px-1.5 text-xs text-muted"
      >
        <span className={cn("size-2 shrink-0", shown.mark)} aria-hidden />
        <span className={cn(state === "live" && "max-sm:sr-only")}>{shown.label}</span>
      </span>
    </Tooltip>
  );
}

const THEMES: readonly [ThemeChoice, string][] = [
  ["light", "Light"],
  ["dark", "Dark"],
  ["system", "As the system"],
];

export function useSignOut() {
  const client = useQueryClient();
  const navigate = useNavigate();
  return useMutation({
    mutationFn: () => unwrap(api.POST("/api/v1/auth/logout")),
    onSuccess: async () => {
      live.stop();
      setCsrfToken(null);
      await navigate({ to: "/sign-in" });
      client.clear();
    },
  });
}

function PersonMenu() {
  const session = useSession();
  const choice = useStore(themeChoice);
  const signOut = useSignOut();
  const initials = session.user.name
    .split(/\s+/)
    .slice(0, 2)
    .map((part) => part.charAt(0).toUpperCase())
    .join("");
  return (
    <Menu
      trigger={
        <button
          type="button"
          aria-label={`You: ${session.user.name}`}
          className="flex size-8 shrink-0 items-center justify-center rounded-full bg-accent-soft text-xs font-semibold text-accent-ink"
        >
          {initials === "" ? "?" : initials}
        </button>
      }
    >
      <div className="px-2 py-1.5">
        <p className="font-medium">{session.user.name}</p>
        <p className="text-xs text-muted">{session.user.email}</p>
        <p className="text-xs text-faint">{humanize(session.role)}</p>
      </div>
      <MenuLine />
      <MenuLabel>Appearance</MenuLabel>
      {THEMES.map(([value, label]) => (
        <MenuChoice
          key={value}
          keepOpen
          checked={choice === value}
          onChange={() => chooseTheme(value)}
        >
          {label}
        </MenuChoice>
      ))}
      <MenuLine />
      <MenuItem onSelect={() => signOut.mutate()}>
        <LogOut size={14} aria-hidden /> Sign out
      </MenuItem>
    </Menu>
  );
}

export function TopBar({
  onPalette,
  onDrawer,
  onAdd,
}: {
  onPalette: () => void;
  onDrawer: () => void;
  onAdd: () => void;
}) {
  return (
    <header className="flex h-12 shrink-0 items-center gap-2 border-b border-line bg-surface px-3 sm:px-4">
      <button
        type="button"
        className={cn(buttonClass("ghost", "icon"), "md:hidden")}
        aria-label="Open the menu"
        onClick={onDrawer}
      >
        <MenuIcon size={18} aria-hidden />
      </button>
      <button
        type="button"
        onClick={onPalette}
        aria-keyshortcuts="Control+K"
        className="flex h-8 w-full max-w-sm min-w-0 items-center gap-2 rounded-md border border-line bg-page px-2.5 text-sm text-muted hover:border-line-strong"
      >
        <Search size={14} className="shrink-0" aria-hidden />
        <span className="flex-1 truncate text-left">Find a device, page or action</span>
        <span className="flex gap-0.5 max-sm:hidden">
          <Kbd>Ctrl</Kbd>
          <Kbd>K</Kbd>
        </span>
      </button>
      <div className="ml-auto flex items-center gap-2">
        <LiveIndicator />
        <Button variant="primary" onClick={onAdd} className="max-lg:hidden">
          <Plus size={15} aria-hidden /> Add a device
        </Button>
        <PersonMenu />
      </div>
    </header>
  );
}
