// Who is signed in. The session is server state; what is kept here is only whether it was lost.
import { queryOptions, useQuery, type QueryClient } from "@tanstack/react-query";
import { api, setCsrfToken, unwrap } from "@/lib/api/client";
import type { Session } from "@/lib/api/types";
import { createStore } from "@/lib/store";

/** True after an answer of 401 in the middle of work, until the person has signed in again. */
export const sessionLost = createStore(false);

export const sessionQuery = queryOptions({
  queryKey: ["session"],
  queryFn: async (): Promise<Session> => {
    const session = await unwrap(api.GET("/api/v1/auth/session"));
    setCsrfToken(session.csrf_token);
    return session;
  },
  staleTime: 5 * 60_000,
  retry: false,
});

/** The session of a page that is only shown to people signed in. */
export function useSession(): Session {
  const { data } = useQuery(sessionQuery);
  if (data === undefined) throw new Error("This page needs a session.");
  return data;
}

export function adoptSession(client: QueryClient, session: Session) {
  setCsrfToken(session.csrf_token);
  client.setQueryData(sessionQuery.queryKey, session);
  sessionLost.set(false);
}
