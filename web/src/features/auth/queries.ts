// Signing in and setting up.
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { api, unwrap } from "@/lib/api/client";
import { instanceQuery } from "@/lib/api/shared-queries";
import type { SetupRequest } from "@/lib/api/types";
import { adoptSession } from "@/lib/session";

export interface Credentials {
  email: string;
  password: string;
}

export function useSignIn() {
  const client = useQueryClient();
  return useMutation({
    meta: { signsIn: true },
    mutationFn: (body: Credentials) => unwrap(api.POST("/api/v1/auth/login", { body })),
    onSuccess: (session) => adoptSession(client, session),
  });
}

export function useSetup() {
  const client = useQueryClient();
  return useMutation({
    meta: { signsIn: true },
    mutationFn: (body: SetupRequest) => unwrap(api.POST("/api/v1/setup", { body })),
    onSuccess: (session) => {
      adoptSession(client, session);
      void client.invalidateQueries({ queryKey: instanceQuery.queryKey });
    },
  });
}
