// Page and panel frames, lists of facts, and skeletons of the same geometry.
import type { ReactNode } from "react";
import { cn } from "@/lib/cn";

export function PageHeader({
  title,
  subtitle,
  actions,
}: {
  title: ReactNode;
  subtitle?: ReactNode;
  actions?: ReactNode;
}) {
  return (
    <header className="flex flex-wrap items-center justify-between gap-x-4 gap-y-2">
      <div className="min-w-0">
        <h1 className="text-xl font-semibold tracking-tight">{title}</h1>
        {subtitle !== undefined && <p className="mt-0.5 text-sm text-muted">{subtitle}</p>}
      </div>
      {actions !== undefined && <div className="flex flex-wrap items-center gap-2">{actions}</div>}
    </header>
  );
}

/** A page that scrolls as a whole. */
export function Page({ children, wide }: { children: ReactNode; wide?: boolean }) {
  return (
    <div
      className={cn(
        "mx-auto flex w-full flex-col gap-5 px-4 py-5 sm:px-6",
        wide === true ? "max-w-[1500px]" : "max-w-[1240px]",
      )}
    >
      {children}
    </div>
  );
}

export function Panel({
  title,
  actions,
  children,
  className,
  flush,
}: {
  title?: ReactNode;
  actions?: ReactNode;
  children: ReactNode;
  className?: string;
  flush?: boolean;
}) {
  return (
    <section
      className={cn(
        "relative min-w-0 overflow-hidden rounded-lg border border-line bg-surface",
        className,
      )}
    >
      {title !== undefined && (
        <div className="flex min-h-11 items-center justify-between gap-3 px-4 pt-2.5 pb-1.5">
          <h2 className="text-sm font-semibold">{title}</h2>
          {actions}
        </div>
      )}
      <div
        className={cn(
          flush !== true && "px-4 pb-4",
          title === undefined && flush !== true && "pt-4",
        )}
      >
        {children}
      </div>
    </section>
  );
}

export function Skeleton({ className }: { className?: string }) {
  return <div className={cn("h-4 w-full skeleton", className)} aria-hidden />;
}

/** Facts as label and value. Missing ones are left out by the caller or shown as a dash. */
export function Facts({
  items,
  className,
}: {
  items: readonly [label: string, value: ReactNode][];
  className?: string;
}) {
  return (
    <dl
      className={cn("grid grid-cols-[minmax(110px,auto)_1fr] gap-x-6 gap-y-2 text-sm", className)}
    >
      {items.map(([label, value], index) => (
        <div key={`${label} ${index}`} className="contents">
          <dt className="text-muted">{label}</dt>
          <dd className="min-w-0 break-words">{value ?? "–"}</dd>
        </div>
      ))}
    </dl>
  );
}

export function FactsSkeleton({ rows }: { rows: number }) {
  return (
    <div className="flex flex-col gap-2" aria-hidden>
      {Array.from({ length: rows }, (_, i) => (
        <div key={i} className="grid h-5 grid-cols-[110px_1fr] items-center gap-6">
          <Skeleton className="h-3.5 w-20" />
          <Skeleton className="h-3.5 w-40 max-w-full" />
        </div>
      ))}
    </div>
  );
}

export function Kbd({ children }: { children: ReactNode }) {
  return (
    <kbd className="inline-flex h-[18px] min-w-[18px] items-center justify-center rounded border border-line bg-surface-2 px-1 font-sans text-2xs text-muted">
      {children}
    </kbd>
  );
}
