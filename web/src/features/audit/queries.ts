// The audit log, newest first, filtered by the server; and how much was done by day.
import { infiniteQueryOptions, queryOptions } from "@tanstack/react-query";
import { api, unwrap } from "@/lib/api/client";
import { compact, stringifySearch, type AuditRange, type AuditSearch } from "@/lib/url";

const PAGE = 100;
export const DEFAULT_RANGE: AuditRange = "30d";

const RANGE_MS: Record<Exclude<AuditRange, "all">, number> = {
  "24h": 86_400_000,
  "7d": 7 * 86_400_000,
  "30d": 30 * 86_400_000,
  "90d": 90 * 86_400_000,
};

/** When a range begins; nothing: with the first entry. */
export function rangeStart(range: AuditRange, now: number): string | undefined {
  return range === "all" ? undefined : new Date(now - RANGE_MS[range]).toISOString();
}

/** What the API is asked for a search. */
export function auditFilter(search: AuditSearch, now: number) {
  const { q, result, action, actor, since = DEFAULT_RANGE } = search;
  return compact({ q, result, action, actor, from: rangeStart(since, now) });
}

export type AuditFilter = ReturnType<typeof auditFilter>;

export function auditQuery(filter: AuditFilter) {
  return infiniteQueryOptions({
    queryKey: ["audit", filter],
    queryFn: ({ pageParam, signal }) =>
      unwrap(
        api.GET("/api/v1/audit/logs", {
          params: {
            query: { ...filter, limit: PAGE, ...(pageParam === null ? {} : { cursor: pageParam }) },
          },
          signal,
        }),
      ),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next_cursor ?? null,
  });
}

export function auditSummaryQuery(from: string | undefined) {
  return queryOptions({
    queryKey: ["audit-summary", from],
    queryFn: ({ signal }) =>
      unwrap(api.GET("/api/v1/audit/summary", { params: { query: compact({ from }) }, signal })),
  });
}

/** Where the browser downloads what the filter finds. */
export function exportHref(filter: AuditFilter, format: "csv" | "jsonl"): string {
  return `/api/v1/audit/logs/export${stringifySearch({ format, ...filter })}`;
}
