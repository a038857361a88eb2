// The frame around every page of a person signed in.
import { Outlet, useNavigate, useRouterState, useSearch } from "@tanstack/react-router";
import { lazy, Suspense, useEffect, useState, type ReactNode } from "react";
import { Palette } from "@/app/shell/palette";
import { Rail } from "@/app/shell/rail";
import { SignInAgain } from "@/features/auth/components/sign-in-again";
import { TopBar } from "@/app/shell/top-bar";
import { Dialog } from "@/components/ui/dialog";
import { cn } from "@/lib/cn";
import { useHotkeys } from "@/lib/hotkeys";
import { live } from "@/lib/live/hooks";
import { sessionLost } from "@/lib/session";
import { persistentStore, useStore } from "@/lib/store";

const AddDevice = lazy(async () => ({
  default: (await import("@/features/enrollment/components/add-device")).AddDevice,
}));

const narrowRail = persistentStore<boolean>("breeze.rail", false, (value) =>
  typeof value === "boolean" ? value : null,
);

function useLiveConnection() {
  const lost = useStore(sessionLost);
  useEffect(() => {
    if (lost) return;
    live.start();
    const hurry = () => document.visibilityState === "visible" && live.hurry();
    window.addEventListener("online", hurry);
    document.addEventListener("visibilitychange", hurry);
    return () => {
      window.removeEventListener("online", hurry);
      document.removeEventListener("visibilitychange", hurry);
      live.stop();
    };
  }, [lost]);
}

export function Shell(): ReactNode {
  const narrow = useStore(narrowRail);
  const [drawer, setDrawer] = useState(false);
  const [palette, setPalette] = useState(false);
  const { add } = useSearch({ from: "/app" });
  const navigate = useNavigate();
  const path = useRouterState({ select: (state) => state.location.pathname });
  useLiveConnection();
  useHotkeys(
    {
      "mod+k": (event) => {
        event.preventDefault();
        setPalette((open) => !open);
      },
    },
    { whenCovered: true },
  );

  const setAdd = (value: string | undefined) =>
    void navigate({
      to: ".",
      search: (now) => ({ ...now, add: value }),
      replace: value === undefined,
    });

  return (
    <div className="flex h-dvh">
      <a
        href="#content"
        className="sr-only z-50 rounded-md bg-accent px-3 py-2 text-accent-text focus:not-sr-only focus:absolute focus:top-2 focus:left-2"
      >
        Skip to the page
      </a>
      <aside
        className={cn(
          "hidden shrink-0 border-r border-line bg-surface md:block",
          narrow ? "w-14" : "w-56",
        )}
      >
        <Rail narrow={narrow} onToggle={() => narrowRail.set(!narrow)} />
      </aside>
      <Dialog
        open={drawer}
        onClose={() => setDrawer(false)}
        title="Menu"
        hideTitle
        place="left"
        className="[&>div]:p-0"
      >
        <Rail narrow={false} onGo={() => setDrawer(false)} />
      </Dialog>
      <div className="flex min-w-0 flex-1 flex-col">
        <TopBar
          onPalette={() => setPalette(true)}
          onDrawer={() => setDrawer(true)}
          onAdd={() => setAdd("1")}
        />
        <main
          id="content"
          key={path}
          tabIndex={-1}
          className="relative min-h-0 flex-1 overflow-auto outline-none"
        >
          <Outlet />
        </main>
      </div>
      <Palette open={palette} onClose={() => setPalette(false)} onAdd={() => setAdd("1")} />
      {add !== undefined && (
        <Suspense fallback={null}>
          <AddDevice onClose={() => setAdd(undefined)} />
        </Suspense>
      )}
      <SignInAgain />
    </div>
  );
}
