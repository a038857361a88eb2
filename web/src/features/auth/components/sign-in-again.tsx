// When the session ends in the middle of work, one signs in over the page: the URL and everything
// typed stay as they are.
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { lazy, Suspense } from "react";
import { Dialog } from "@/components/ui/dialog";
import { Skeleton } from "@/components/ui/panel";
import { sessionLost, sessionQuery } from "@/lib/session";
import { useStore } from "@/lib/store";

// The forms are not needed to show a page: they stay out of the first load.
const SignInForm = lazy(async () => ({
  default: (await import("@/features/auth/components/sign-in-form")).SignInForm,
}));

export function SignInAgain() {
  const lost = useStore(sessionLost);
  const client = useQueryClient();
  const { data: session } = useQuery({ ...sessionQuery, enabled: false });
  return (
    <Dialog
      open={lost}
      onClose={() => undefined}
      keepOpen
      title="Your session has ended"
      description="Sign in to go on. What you typed is still there."
      className="max-w-sm"
    >
      <Suspense fallback={<Skeleton className="h-44" />}>
        <SignInForm
          email={session?.user.email ?? ""}
          onDone={() =>
            void client.invalidateQueries({ predicate: (query) => query.queryKey[0] !== "session" })
          }
        />
      </Suspense>
    </Dialog>
  );
}
