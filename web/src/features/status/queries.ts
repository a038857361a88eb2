// The state of the system itself.
import { queryOptions, useQuery, useQueryClient } from "@tanstack/react-query";
import { api, unwrap } from "@/lib/api/client";
import type { SystemStatus } from "@/lib/api/types";
import { useLiveTopic } from "@/lib/live/hooks";

const statusQuery = queryOptions({
  queryKey: ["status"],
  queryFn: () => unwrap(api.GET("/api/v1/status")),
  refetchInterval: 10_000,
});

function isStatus(data: unknown): data is SystemStatus {
  return (
    typeof data === "object" &&
    data !== null &&
    "roles" in data &&
    "lanes" in data &&
    "storage" in data
  );
}

export function useSystemStatus() {
  const client = useQueryClient();
  useLiveTopic("status", (message) => {
    if (isStatus(message.data)) client.setQueryData(statusQuery.queryKey, message.data);
  });
  return useQuery(statusQuery);
}
