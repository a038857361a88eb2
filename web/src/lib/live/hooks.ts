// The live connection as React sees it.
import { useEffect, useRef, useSyncExternalStore } from "react";
import { api, isUnauthenticated, unwrap } from "@/lib/api/client";
import { sessionLost } from "@/lib/session";
import { LiveClient, type LiveMessage, type LiveState, type SocketLike } from "@/lib/live/client";

export const live = new LiveClient({
  ticket: async () => (await unwrap(api.POST("/api/v1/ws-tickets"))).ticket,
  open: (ticket) => {
    const url = new URL("/api/v1/ws", location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.searchParams.set("ticket", ticket);
    return new WebSocket(url) as unknown as SocketLike;
  },
  later: (fn, ms) => {
    const timer = setTimeout(fn, ms);
    return () => clearTimeout(timer);
  },
  random: Math.random,
  isFinal: (error) => {
    if (!isUnauthenticated(error)) return false;
    sessionLost.set(true);
    return true;
  },
});

export function useLiveState(): LiveState {
  return useSyncExternalStore(live.onState, () => live.state);
}

/** Calls `handler` for each message of `topic` while the component is shown. */
export function useLiveTopic(topic: string | null, handler: (message: LiveMessage) => void) {
  const latest = useRef(handler);
  useEffect(() => {
    latest.current = handler;
  });
  useEffect(() => {
    if (topic === null) return;
    return live.subscribe(topic, (message) => latest.current(message));
  }, [topic]);
}

/** Calls `handler` when the connection is back after a gap. */
export function useLiveResume(handler: () => void) {
  const latest = useRef(handler);
  useEffect(() => {
    latest.current = handler;
  });
  useEffect(() => live.onResume(() => latest.current()), []);
}
