// How a failure is shown everywhere: what, why, how to go on, and the request id to copy.
import { RotateCw, TriangleAlert } from "lucide-react";
import type { ReactNode } from "react";
import { Button } from "@/components/ui/button";
import { CopyText } from "@/components/ui/copy";
import { asProblem, howToGoOn, type Problem } from "@/lib/api/problem";
import { cn } from "@/lib/cn";

export function ProblemNote({
  error,
  onRetry,
  retryLabel,
  title,
  className,
}: {
  error: unknown;
  onRetry?: () => void;
  retryLabel?: string;
  title?: string;
  className?: string;
}) {
  const problem = asProblem(error);
  const next = howToGoOn(problem);
  const stale = problem.code === "precondition_failed";
  return (
    <div
      role="alert"
      className={cn(
        "flex gap-3 rounded-lg border border-critical/35 bg-critical-soft p-3 text-sm",
        className,
      )}
    >
      <TriangleAlert size={16} className="mt-0.5 shrink-0 text-critical" aria-hidden />
      <div className="min-w-0 flex-1 space-y-1">
        <p className="font-medium">{title ?? problem.title}</p>
        {title !== undefined && title !== problem.title && <p>{problem.title}</p>}
        {saysMore(problem) && <p className="break-words">{problem.detail}</p>}
        {problem.errors.length > 0 && (
          <ul className="list-disc pl-4">
            {problem.errors.map((entry) => (
              <li key={entry.field + entry.message}>
                <span className="font-mono text-xs">{entry.field}</span>: {entry.message}
              </li>
            ))}
          </ul>
        )}
        {next !== "" && <p className="text-muted">{next}</p>}
        <div className="flex flex-wrap items-center gap-x-3 gap-y-1 pt-1">
          {onRetry !== undefined && (
            <Button size="sm" onClick={onRetry}>
              <RotateCw size={13} aria-hidden /> {retryLabel ?? (stale ? "Reload it" : "Try again")}
            </Button>
          )}
          {problem.requestId !== null && (
            <span className="flex items-center gap-1 text-xs text-muted">
              <span className="shrink-0">Request id</span> <CopyText value={problem.requestId} />
            </span>
          )}
        </div>
      </div>
    </div>
  );
}

/** Where fields are named, what they say is the detail; the sentence that points at them is not. */
function saysMore({ detail, title, errors }: Problem): boolean {
  return detail !== "" && detail !== title && errors.length === 0;
}

export function EmptyState({
  icon,
  title,
  children,
  action,
}: {
  icon: ReactNode;
  title: string;
  children?: ReactNode;
  action?: ReactNode;
}) {
  return (
    <div className="flex flex-col items-center justify-center gap-2 px-6 py-14 text-center">
      <div className="mb-1 flex size-11 items-center justify-center rounded-xl bg-surface-2 text-muted">
        {icon}
      </div>
      <h2 className="text-base font-semibold">{title}</h2>
      {children !== undefined && <div className="max-w-md text-sm text-muted">{children}</div>}
      {action !== undefined && <div className="mt-2">{action}</div>}
    </div>
  );
}
