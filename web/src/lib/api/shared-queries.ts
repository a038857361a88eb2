// Queries that several features ask: devices by text, sites, what waits for approval.
import { queryOptions } from "@tanstack/react-query";
import { api, unwrap } from "@/lib/api/client";

export const sitesQuery = queryOptions({
  queryKey: ["sites"],
  queryFn: async () =>
    (await unwrap(api.GET("/api/v1/orgs/current/sites", { params: { query: { limit: 500 } } })))
      .data,
  staleTime: 5 * 60_000,
});

export const pendingCountQuery = queryOptions({
  queryKey: ["pending-devices", "count"],
  queryFn: async () =>
    (await unwrap(api.GET("/api/v1/pending-devices", { params: { query: { limit: 1 } } }))).total,
  refetchInterval: 60_000,
});

export const instanceQuery = queryOptions({
  queryKey: ["instance"],
  queryFn: () => unwrap(api.GET("/api/v1/instance")),
  staleTime: Infinity,
});

/** The few devices that match a text best, for the palette. */
export function findDevicesQuery(text: string) {
  return queryOptions({
    queryKey: ["devices", "find", text],
    queryFn: async ({ signal }) =>
      (
        await unwrap(
          api.GET("/api/v1/devices", { params: { query: { limit: 8, q: text } }, signal }),
        )
      ).data,
    enabled: text !== "",
  });
}
