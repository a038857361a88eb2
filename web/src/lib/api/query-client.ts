// Server state lives in TanStack Query; this sets how it retries and what a lost session does.
import { MutationCache, QueryCache, QueryClient } from "@tanstack/react-query";
import { isUnauthenticated } from "@/lib/api/client";
import { Problem } from "@/lib/api/problem";
import { sessionLost } from "@/lib/session";

const RETRIES_MAX = 2;

function worthRetrying(failures: number, error: Error): boolean {
  if (failures >= RETRIES_MAX) return false;
  return !(error instanceof Problem) || error.status === 0 || error.status >= 500;
}

export function makeQueryClient(): QueryClient {
  const onError = (error: Error) => {
    if (isUnauthenticated(error)) sessionLost.set(true);
  };
  return new QueryClient({
    queryCache: new QueryCache({ onError }),
    mutationCache: new MutationCache({
      onError: (error, _variables, _context, mutation) => {
        // A wrong password is also a 401, and no lost session.
        if (mutation.meta?.signsIn !== true) onError(error);
      },
    }),
    defaultOptions: {
      queries: { staleTime: 15_000, retry: worthRetrying, refetchOnWindowFocus: false },
    },
  });
}
