// One device: its record with the version it was read at, inventory, metrics, live samples.
import {
  infiniteQueryOptions,
  queryOptions,
  useMutation,
  useQuery,
  useQueryClient,
} from "@tanstack/react-query";
import { api, unwrap, type Tagged } from "@/lib/api/client";
import { decommissionDevice, patchDevice, readDevice } from "@/lib/api/device-actions";
import { Problem } from "@/lib/api/problem";
import type { Device, DevicePatch } from "@/lib/api/types";
import { useLiveResume, useLiveTopic } from "@/lib/live/hooks";
import type { EventChoice, Section } from "@/lib/url";

export function deviceQuery(id: string) {
  return queryOptions({
    queryKey: ["device", id],
    queryFn: ({ signal }) => readDevice(id, signal),
    refetchInterval: 60_000,
  });
}

function isDevice(data: unknown, id: string): data is Device {
  return typeof data === "object" && data !== null && (data as { id?: unknown }).id === id;
}

/** The device, kept live. The entity tag is the version, so a live record carries its own. */
export function useDevice(id: string) {
  const client = useQueryClient();
  const key = deviceQuery(id).queryKey;
  useLiveTopic(`device:${id}`, (message) => {
    if (message.type !== "device" || !isDevice(message.data, id)) return;
    const data = message.data;
    client.setQueryData(key, (now) =>
      now === undefined ? now : { data, etag: `"${data.version}"` },
    );
  });
  useLiveResume(() => void client.invalidateQueries({ queryKey: key }));
  return useQuery(deviceQuery(id));
}

export function usePatchDevice(id: string) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: ({ etag, body }: { etag: string; body: DevicePatch }) =>
      patchDevice(id, etag, body),
    onSuccess: (tagged: Tagged<Device>) => {
      client.setQueryData(deviceQuery(id).queryKey, (now) => ({
        data: tagged.data,
        etag: tagged.etag === "" ? (now?.etag ?? "") : tagged.etag,
      }));
      void client.invalidateQueries({ queryKey: ["devices"] });
    },
  });
}

export function useDecommission(id: string) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: (etag: string) => decommissionDevice(id, etag),
    onSuccess: () => {
      void client.invalidateQueries({ queryKey: ["devices"] });
      void client.invalidateQueries({ queryKey: ["overview"] });
    },
  });
}

/** An inventory that a device has not sent yet is no failure: it is `null`. */
async function orNotReported<T>(call: Promise<T>): Promise<T | null> {
  try {
    return await call;
  } catch (error) {
    if (error instanceof Problem && error.code === "not_reported") return null;
    throw error;
  }
}

export function hardwareQuery(id: string) {
  return queryOptions({
    queryKey: ["device", id, "hardware"],
    queryFn: ({ signal }) =>
      orNotReported(
        unwrap(api.GET("/api/v1/devices/{id}/hardware", { params: { path: { id } }, signal })),
      ),
  });
}

export function networkQuery(id: string) {
  return queryOptions({
    queryKey: ["device", id, "network"],
    queryFn: ({ signal }) =>
      orNotReported(
        unwrap(api.GET("/api/v1/devices/{id}/network", { params: { path: { id } }, signal })),
      ),
  });
}

const SOFTWARE_PAGE = 200;

export function softwareQuery(id: string, q: string) {
  return infiniteQueryOptions({
    queryKey: ["device", id, "software", q],
    queryFn: ({ pageParam, signal }) =>
      orNotReported(
        unwrap(
          api.GET("/api/v1/devices/{id}/software", {
            params: {
              path: { id },
              query: {
                limit: SOFTWARE_PAGE,
                sort: "name",
                ...(q === "" ? {} : { q }),
                ...(pageParam === null ? {} : { cursor: pageParam }),
              },
            },
            signal,
          }),
        ),
      ),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page?.next_cursor ?? null,
    placeholderData: (previous) => previous,
  });
}

const EVENTS_PAGE = 50;

/** What the server calls the kinds that are chosen together. */
export const EVENT_KINDS: Record<EventChoice, readonly string[]> = {
  presence: ["online", "offline", "left_out"],
  connections: ["connected", "disconnected", "left_out"],
  inventory: ["inventory_changed"],
};

export function eventsQuery(id: string, kinds: readonly string[]) {
  const kind = kinds.join(",");
  return infiniteQueryOptions({
    queryKey: ["device", id, "events", kind],
    queryFn: ({ pageParam, signal }) =>
      unwrap(
        api.GET("/api/v1/devices/{id}/events", {
          params: {
            path: { id },
            query: {
              limit: EVENTS_PAGE,
              ...(kind === "" ? {} : { kind }),
              ...(pageParam === null ? {} : { cursor: pageParam }),
            },
          },
          signal,
        }),
      ),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next_cursor ?? null,
  });
}

export function inventoryHistoryQuery(id: string, section: Section | undefined) {
  return infiniteQueryOptions({
    queryKey: ["device", id, "inventory-history", section ?? ""],
    queryFn: ({ pageParam, signal }) =>
      unwrap(
        api.GET("/api/v1/devices/{id}/inventory/history", {
          params: {
            path: { id },
            query: {
              limit: EVENTS_PAGE,
              ...(section === undefined ? {} : { section }),
              ...(pageParam === null ? {} : { cursor: pageParam }),
            },
          },
          signal,
        }),
      ),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next_cursor ?? null,
  });
}

/** What is different in a version from the one before. It never changes, unless a region was silent. */
export function changesQuery(id: string, version: string) {
  return queryOptions({
    queryKey: ["device", id, "inventory-changes", version],
    queryFn: ({ signal }) =>
      unwrap(
        api.GET("/api/v1/devices/{id}/inventory/history/{version}/changes", {
          params: { path: { id, version } },
          signal,
        }),
      ),
  });
}

export interface MetricsAsk {
  from: number;
  to: number;
  series?: readonly string[];
  details?: string;
}

export async function fetchMetrics(id: string, ask: MetricsAsk, signal: AbortSignal) {
  return unwrap(
    api.GET("/api/v1/devices/{id}/metrics", {
      params: {
        path: { id },
        query: {
          from: new Date(ask.from).toISOString(),
          to: new Date(ask.to).toISOString(),
          step: "auto",
          ...(ask.series === undefined ? {} : { series: ask.series.join(",") }),
          ...(ask.details === undefined ? {} : { details: ask.details }),
        },
      },
      signal,
    }),
  );
}
