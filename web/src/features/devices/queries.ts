// The device list: pages by cursor, counts apart from rows, live changes written into both.
import {
  infiniteQueryOptions,
  queryOptions,
  useQueryClient,
  type InfiniteData,
  type QueryClient,
} from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import { api, unwrap } from "@/lib/api/client";
import type { DevicePage, DeviceSummary } from "@/lib/api/types";
import { useLiveResume, useLiveTopic } from "@/lib/live/hooks";

export interface DeviceQuery {
  q?: string | undefined;
  filter?: string | undefined;
  sort: string;
}

/** The first page answers at once; the ones after it are read by somebody who scrolls. */
const FIRST_PAGE = 100;
/** The most the server gives at once. */
const PAGE_MAX = 500;

function parameters(query: DeviceQuery) {
  return {
    sort: query.sort,
    ...(query.q === undefined ? {} : { q: query.q }),
    ...(query.filter === undefined ? {} : { filter: query.filter }),
  };
}

export function devicesQuery(query: DeviceQuery) {
  return infiniteQueryOptions({
    queryKey: ["devices", "list", query],
    queryFn: ({ pageParam, signal }) =>
      unwrap(
        api.GET("/api/v1/devices", {
          params: {
            query: {
              ...parameters(query),
              limit: pageParam === null ? FIRST_PAGE : PAGE_MAX,
              ...(pageParam === null ? {} : { cursor: pageParam }),
            },
          },
          signal,
        }),
      ),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next_cursor ?? null,
    placeholderData: (previous) => previous,
    // The live connection keeps it fresh; walking all loaded pages again would be waste.
    staleTime: 60_000,
  });
}

/** Total and facets alone: cheap to ask again whenever something changed. */
export function deviceCountsQuery(query: DeviceQuery) {
  return queryOptions({
    queryKey: ["devices", "counts", query.q ?? "", query.filter ?? ""],
    queryFn: async ({ signal }) => {
      const page = await unwrap(
        api.GET("/api/v1/devices", {
          params: { query: { ...parameters(query), limit: 1 } },
          signal,
        }),
      );
      return { total: page.total, facets: page.facets };
    },
    placeholderData: (previous) => previous,
  });
}

/** The fields that a filter can name, as the server knows them. */
export const deviceFieldsQuery = queryOptions({
  queryKey: ["device-fields"],
  queryFn: async () => (await unwrap(api.GET("/api/v1/device-fields"))).data,
  staleTime: Infinity,
});

/** Every device that matches, page by page. Stops when `signal` says so. */
export async function allDevices(
  query: DeviceQuery,
  onProgress: (done: number, total: number) => void,
  signal: AbortSignal,
): Promise<DeviceSummary[]> {
  const all: DeviceSummary[] = [];
  let cursor: string | null = null;
  do {
    const page: DevicePage = await unwrap(
      api.GET("/api/v1/devices", {
        params: {
          query: { ...parameters(query), limit: PAGE_MAX, ...(cursor === null ? {} : { cursor }) },
        },
        signal,
      }),
    );
    all.push(...page.data);
    onProgress(all.length, page.total);
    cursor = page.has_more ? (page.next_cursor ?? null) : null;
  } while (cursor !== null);
  return all;
}

type Change = Partial<DeviceSummary> & { id: string };

function changesOf(data: unknown): Change[] {
  if (typeof data !== "object" || data === null) return [];
  const { devices } = data as { devices?: unknown };
  if (!Array.isArray(devices)) return [];
  return devices.filter(
    (entry: unknown): entry is Change =>
      typeof entry === "object" &&
      entry !== null &&
      typeof (entry as { id?: unknown }).id === "string",
  );
}

/** Writes changes into pages; pages and rows that did not change keep their identity. */
export function mergeChanges(
  data: InfiniteData<DevicePage>,
  changes: ReadonlyMap<string, Change>,
): { data: InfiniteData<DevicePage>; found: ReadonlySet<string> } {
  const found = new Set<string>();
  const pages = data.pages.map((page) => {
    if (!page.data.some((row) => changes.has(row.id))) return page;
    const rows = page.data.map((row) => {
      const change = changes.get(row.id);
      if (change === undefined) return row;
      found.add(row.id);
      return { ...row, ...change };
    });
    return { ...page, data: rows };
  });
  return { data: { ...data, pages }, found };
}

const COUNTS_EVERY_MS = 3_000;
const APPLY_EVERY_MS = 400;

function applyTo(
  client: QueryClient,
  query: DeviceQuery,
  changes: ReadonlyMap<string, Change>,
): boolean {
  const key = devicesQuery(query).queryKey;
  const now = client.getQueryData(key);
  if (now === undefined) return false;
  const { data, found } = mergeChanges(now, changes);
  if (found.size > 0) client.setQueryData(key, data);
  return found.size < changes.size;
}

/**
 * Keeps the list live. Rows change in place and keep their order under the pointer; what would
 * change the order or add rows is offered instead (`stale`), or loaded at once while the list is short.
 */
export function useLiveDevices(
  query: DeviceQuery,
  pagesLoaded: number,
): { stale: boolean; refresh: () => void } {
  const client = useQueryClient();
  const [stale, setStale] = useState(false);
  const waiting = useRef(new Map<string, Change>());
  const unknown = useRef(false);
  const statusChanged = useRef(false);

  useLiveTopic("devices", (message) => {
    for (const change of changesOf(message.data)) {
      if (change.status !== undefined) statusChanged.current = true;
      waiting.current.set(change.id, { ...waiting.current.get(change.id), ...change });
    }
  });
  const refresh = () => {
    setStale(false);
    void client.invalidateQueries({ queryKey: ["devices"] });
  };
  useLiveResume(refresh);

  useEffect(() => {
    const apply = setInterval(() => {
      if (waiting.current.size === 0) return;
      const changes = waiting.current;
      waiting.current = new Map();
      if (applyTo(client, query, changes)) unknown.current = true;
    }, APPLY_EVERY_MS);
    const counts = setInterval(() => {
      if (statusChanged.current || unknown.current) {
        void client.invalidateQueries({ queryKey: ["devices", "counts"] });
      }
      statusChanged.current = false;
      unknown.current = false;
    }, COUNTS_EVERY_MS);
    return () => {
      clearInterval(apply);
      clearInterval(counts);
    };
  }, [client, query]);

  // The counts say when rows came or went; a short list then loads itself again.
  const counts = client.getQueryData(deviceCountsQuery(query).queryKey);
  const loaded = client.getQueryData(devicesQuery(query).queryKey)?.pages[0]?.total;
  const differs = counts !== undefined && loaded !== undefined && counts.total !== loaded;
  useEffect(() => {
    if (!differs) {
      setStale(false);
    } else if (pagesLoaded <= 1) {
      void client.invalidateQueries({ queryKey: devicesQuery(query).queryKey });
    } else {
      setStale(true);
    }
  }, [differs, pagesLoaded, client, query]);

  return { stale, refresh };
}
