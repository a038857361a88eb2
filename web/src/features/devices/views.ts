// Saved views: a search, a filter and an order under a name, kept in this browser.
import { persistentStore, useStore } from "@/lib/store";
import type { DevicesSearch } from "@/lib/url";

export interface View {
  id: string;
  name: string;
  q?: string;
  filter?: string;
  sort?: string;
}

export const VIEWS_MAX = 20;
export const ALL: View = { id: "all", name: "All devices" };

const START: readonly View[] = [
  { id: "offline", name: "Offline", filter: "status = offline", sort: "last_seen_at" },
  { id: "attention", name: "Needs attention", filter: "health in (warning, error)" },
];

export function parseViews(value: unknown): readonly View[] | null {
  if (!Array.isArray(value)) return null;
  return value.slice(0, VIEWS_MAX).flatMap((entry: unknown) => {
    if (typeof entry !== "object" || entry === null) return [];
    const { id, name, q, filter, sort } = entry as Record<string, unknown>;
    if (typeof id !== "string" || typeof name !== "string") return [];
    return [
      {
        id,
        name,
        ...(typeof q === "string" ? { q } : {}),
        ...(typeof filter === "string" ? { filter } : {}),
        ...(typeof sort === "string" ? { sort } : {}),
      },
    ];
  });
}

const store = persistentStore("breeze.views.devices", START, parseViews);

export function useViews(): readonly View[] {
  return useStore(store);
}

export function sameView(view: Omit<View, "id" | "name">, search: DevicesSearch): boolean {
  return (
    (view.q ?? "") === (search.q ?? "") &&
    (view.filter ?? "") === (search.filter ?? "") &&
    (view.sort ?? "") === (search.sort ?? "")
  );
}

export function saveView(name: string, search: DevicesSearch): View {
  const view: View = {
    id: crypto.randomUUID(),
    name,
    ...(search.q === undefined ? {} : { q: search.q }),
    ...(search.filter === undefined ? {} : { filter: search.filter }),
    ...(search.sort === undefined ? {} : { sort: search.sort }),
  };
  store.set([...store.get(), view].slice(-VIEWS_MAX));
  return view;
}

export function removeView(id: string) {
  store.set(store.get().filter((view) => view.id !== id));
}
