// The frame of the shell while the session is looked up: the same geometry, nothing in it.
export function ShellSkeleton() {
  return (
    <div className="flex h-dvh" aria-busy aria-label="Loading">
      <div className="hidden w-56 shrink-0 border-r border-line bg-surface md:block" />
      <div className="flex min-w-0 flex-1 flex-col">
        <div className="h-12 border-b border-line bg-surface" />
      </div>
    </div>
  );
}
