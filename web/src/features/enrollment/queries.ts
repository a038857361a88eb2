// Enrolment keys, devices that wait for approval, and the watch for a new device.
import { infiniteQueryOptions, useMutation, useQueryClient } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import { api, idempotencyKey, unwrap } from "@/lib/api/client";
import type { CreateEnrollmentKey, DeviceSummary } from "@/lib/api/types";
import { useLiveTopic } from "@/lib/live/hooks";

const PAGE = 100;
const page = (cursor: string | null) => ({ limit: PAGE, ...(cursor === null ? {} : { cursor }) });

export const keysQuery = infiniteQueryOptions({
  queryKey: ["enrollment-keys"],
  queryFn: ({ pageParam, signal }) =>
    unwrap(api.GET("/api/v1/enrollment-keys", { params: { query: page(pageParam) }, signal })),
  initialPageParam: null as string | null,
  getNextPageParam: (last) => last.next_cursor ?? null,
});

export const pendingQuery = infiniteQueryOptions({
  queryKey: ["pending-devices", "list"],
  queryFn: ({ pageParam, signal }) =>
    unwrap(api.GET("/api/v1/pending-devices", { params: { query: page(pageParam) }, signal })),
  initialPageParam: null as string | null,
  getNextPageParam: (last) => last.next_cursor ?? null,
  refetchInterval: 10_000,
});

export function useCreateKey() {
  const client = useQueryClient();
  // One key for each intention: a repeated try after a lost answer creates nothing twice.
  const intention = useRef(idempotencyKey());
  return useMutation({
    mutationFn: (body: CreateEnrollmentKey) =>
      unwrap(
        api.POST("/api/v1/enrollment-keys", {
          body,
          headers: { "Idempotency-Key": intention.current },
        }),
      ),
    onSettled: (_data, error) => {
      if (error === null) intention.current = idempotencyKey();
    },
    onSuccess: () => void client.invalidateQueries({ queryKey: keysQuery.queryKey }),
  });
}

export function useRevokeKey() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: (id: string) =>
      unwrap(api.DELETE("/api/v1/enrollment-keys/{id}", { params: { path: { id } } })),
    onSuccess: () => void client.invalidateQueries({ queryKey: keysQuery.queryKey }),
  });
}

export function useDecidePending() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: ({ id, approve }: { id: string; approve: boolean }) =>
      unwrap(
        approve
          ? api.POST("/api/v1/pending-devices/{id}/approve", { params: { path: { id } } })
          : api.POST("/api/v1/pending-devices/{id}/reject", { params: { path: { id } } }),
      ),
    onSettled: () => void client.invalidateQueries({ queryKey: ["pending-devices"] }),
  });
}

const LOOK_EVERY_MS = 4_000;
const NEWEST = 5;

/**
 * The devices enrolled since this was first shown. The live connection says it at once; a look
 * every few seconds finds it where there is none.
 */
export function useNewDevices(): DeviceSummary[] {
  const [found, setFound] = useState<DeviceSummary[]>([]);
  const known = useRef<Set<string> | null>(null);
  const look = useRef<() => void>(() => undefined);

  useEffect(() => {
    const abort = new AbortController();
    look.current = () => {
      unwrap(
        api.GET("/api/v1/devices", {
          params: { query: { limit: NEWEST, sort: "-enrolled_at" } },
          signal: abort.signal,
        }),
      ).then(
        ({ data }) => {
          const before = known.current;
          if (before === null) {
            known.current = new Set(data.map((device) => device.id));
          } else {
            setFound(data.filter((device) => !before.has(device.id)));
          }
        },
        () => undefined, // The next look may succeed; the page shows the connection's state.
      );
    };
    look.current();
    const timer = setInterval(() => look.current(), LOOK_EVERY_MS);
    return () => {
      clearInterval(timer);
      abort.abort();
    };
  }, []);
  const last = useRef(0);
  useLiveTopic("devices", () => {
    // Heartbeats of a large fleet arrive here too: at most one look a second.
    if (Date.now() - last.current < 1_000) return;
    last.current = Date.now();
    look.current();
  });
  return found;
}
