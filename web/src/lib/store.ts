// A value outside React that components can watch, and one that survives a reload.
import { useSyncExternalStore } from "react";

export interface Store<T> {
  get: () => T;
  set: (next: T) => void;
  subscribe: (listener: () => void) => () => void;
}

export function createStore<T>(initial: T): Store<T> {
  let value = initial;
  const listeners = new Set<() => void>();
  return {
    get: () => value,
    set(next) {
      if (Object.is(next, value)) return;
      value = next;
      listeners.forEach((listener) => listener());
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

export function useStore<T>(store: Store<T>): T {
  return useSyncExternalStore(store.subscribe, store.get, store.get);
}

function read(key: string): string | null {
  try {
    return localStorage.getItem(key);
  } catch {
    return null; // Storage refused: the default stands.
  }
}

function write(key: string, value: string) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Full or refused: the choice lasts until the page is closed.
  }
}

/** A store kept in this browser. `parse` decides whether what is stored is still understood. */
export function persistentStore<T>(
  key: string,
  initial: T,
  parse: (value: unknown) => T | null,
): Store<T> {
  let start = initial;
  const stored = read(key);
  if (stored !== null) {
    try {
      start = parse(JSON.parse(stored)) ?? initial;
    } catch {
      start = initial;
    }
  }
  const store = createStore(start);
  return {
    ...store,
    set(next) {
      store.set(next);
      write(key, JSON.stringify(next));
    },
  };
}
