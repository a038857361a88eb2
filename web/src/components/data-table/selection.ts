// Which rows are chosen: single, ranges with shift, or all that match.
import { useCallback, useMemo, useRef, useState } from "react";

export interface Selection {
  ids: ReadonlySet<string>;
  /** Everything that matches the filter, also what is not loaded. */
  all: boolean;
  has: (id: string) => boolean;
  toggle: (index: number, range: boolean) => void;
  setPage: (on: boolean) => void;
  selectAll: () => void;
  clear: () => void;
}

/** The new selection after a click on `index`, with shift from `anchor`. */
export function toggled(
  ids: ReadonlySet<string>,
  order: readonly string[],
  index: number,
  anchor: number | null,
): Set<string> {
  const next = new Set(ids);
  const id = order[index];
  if (id === undefined) return next;
  const on = !ids.has(id);
  const from = anchor === null ? index : Math.min(anchor, index);
  const to = anchor === null ? index : Math.max(anchor, index);
  for (const member of order.slice(from, to + 1)) {
    if (on) next.add(member);
    else next.delete(member);
  }
  return next;
}

export function useSelection(order: readonly string[]): Selection {
  const [ids, setIds] = useState<ReadonlySet<string>>(() => new Set());
  const [all, setAll] = useState(false);
  const anchor = useRef<number | null>(null);

  const toggle = useCallback(
    (index: number, range: boolean) => {
      setIds((now) =>
        toggled(all ? new Set(order) : now, order, index, range ? anchor.current : null),
      );
      setAll(false);
      anchor.current = index;
    },
    [order, all],
  );
  const setPage = useCallback(
    (on: boolean) => {
      setIds(on ? new Set(order) : new Set());
      setAll(false);
    },
    [order],
  );
  const clear = useCallback(() => {
    setIds(new Set());
    setAll(false);
    anchor.current = null;
  }, []);
  const selectAll = useCallback(() => setAll(true), []);

  return useMemo(
    () => ({
      ids,
      all,
      has: (id: string) => all || ids.has(id),
      toggle,
      setPage,
      selectAll,
      clear,
    }),
    [ids, all, toggle, setPage, selectAll, clear],
  );
}
