// Which columns a person sees and how wide they are, kept in this browser.
import type { ColumnSizingState, VisibilityState } from "@tanstack/react-table";
import type { Column } from "@/components/data-table/types";
import { persistentStore, useStore, type Store } from "@/lib/store";

export interface TablePrefs {
  visibility: VisibilityState;
  sizing: ColumnSizingState;
}

const EMPTY: TablePrefs = { visibility: {}, sizing: {} };
const stores = new Map<string, Store<TablePrefs>>();

function record<V>(value: unknown, check: (entry: unknown) => entry is V): Record<string, V> {
  if (typeof value !== "object" || value === null) return {};
  return Object.fromEntries(
    Object.entries(value).filter((entry): entry is [string, V] => check(entry[1])),
  );
}

const isBoolean = (value: unknown): value is boolean => typeof value === "boolean";
const isWidth = (value: unknown): value is number =>
  typeof value === "number" && value >= 40 && value <= 2_000;

export function parsePrefs(value: unknown): TablePrefs | null {
  if (typeof value !== "object" || value === null) return null;
  const { visibility, sizing } = value as Record<string, unknown>;
  return { visibility: record(visibility, isBoolean), sizing: record(sizing, isWidth) };
}

function storeOf(name: string): Store<TablePrefs> {
  let store = stores.get(name);
  if (store === undefined) {
    store = persistentStore(`breeze.table.${name}`, EMPTY, parsePrefs);
    stores.set(name, store);
  }
  return store;
}

export function useTablePrefs(name: string): [TablePrefs, (next: TablePrefs) => void] {
  const store = storeOf(name);
  return [useStore(store), store.set];
}

/** What is shown: the columns' own defaults, then what the person chose. */
export function visibilityOf<T>(columns: readonly Column<T>[], prefs: TablePrefs): VisibilityState {
  const defaults = columns.flatMap((column) =>
    column.id !== undefined && column.meta?.hidden === true ? [[column.id, false] as const] : [],
  );
  return { ...Object.fromEntries(defaults), ...prefs.visibility };
}
