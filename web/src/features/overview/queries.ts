// The overview, live while it is shown.
import { queryOptions, useQuery, useQueryClient } from "@tanstack/react-query";
import { api, unwrap } from "@/lib/api/client";
import type { Overview } from "@/lib/api/types";
import { useLiveResume, useLiveTopic } from "@/lib/live/hooks";

export const overviewQuery = queryOptions({
  queryKey: ["overview"],
  queryFn: () => unwrap(api.GET("/api/v1/overview")),
  refetchInterval: 60_000,
});

function isOverview(data: unknown): data is Overview {
  return (
    typeof data === "object" &&
    data !== null &&
    "devices" in data &&
    "ingest" in data &&
    "busiest" in data
  );
}

export function useOverview() {
  const client = useQueryClient();
  useLiveTopic("overview", (message) => {
    if (isOverview(message.data)) client.setQueryData(overviewQuery.queryKey, message.data);
    // A message may also carry the part that changed only.
    else if (typeof message.data === "object" && message.data !== null) {
      const part = message.data as Partial<Overview>;
      client.setQueryData(overviewQuery.queryKey, (now) =>
        now === undefined ? now : { ...now, ...part },
      );
    }
  });
  useLiveResume(() => void client.invalidateQueries({ queryKey: overviewQuery.queryKey }));
  return useQuery(overviewQuery);
}
