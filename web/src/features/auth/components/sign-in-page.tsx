// Sign in, then go on to where one was going.
import { useQuery } from "@tanstack/react-query";
import { useRouter, useSearch } from "@tanstack/react-router";
import type { ReactNode } from "react";
import { AuthFrame } from "@/features/auth/components/auth-frame";
import { SignInForm } from "@/features/auth/components/sign-in-form";
import { instanceQuery } from "@/lib/api/shared-queries";

export function SignInPage(): ReactNode {
  const { next } = useSearch({ from: "/sign-in" });
  const router = useRouter();
  const { data: instance } = useQuery(instanceQuery);
  if (instance?.setup_required === true) {
    return (
      <AuthFrame title="Not set up yet" intro="This server has no user yet.">
        <p className="text-sm">
          Open the set-up link that the server printed when it started. It looks like{" "}
          <code className="font-mono text-xs break-all">{location.origin}/setup#token=…</code> and
          works once.
        </p>
      </AuthFrame>
    );
  }
  return (
    <AuthFrame title="Sign in" intro={next === undefined ? undefined : "You go on where you were."}>
      <SignInForm onDone={() => router.history.replace(next ?? "/")} />
    </AuthFrame>
  );
}
