// What a page shows when it could not be loaded or drawn.
import { useRouter, type ErrorComponentProps } from "@tanstack/react-router";
import { ProblemNote } from "@/components/ui/problem";

export function RouteFault({ error, reset }: ErrorComponentProps) {
  const router = useRouter();
  return (
    <main className="mx-auto w-full max-w-xl px-4 py-16">
      <ProblemNote
        error={error}
        title="This page could not be shown"
        onRetry={() => {
          reset();
          void router.invalidate();
        }}
      />
    </main>
  );
}
