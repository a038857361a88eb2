// One choice of a few, kept in the address: all of it, or one kind.
import { Link } from "@tanstack/react-router";
import { cn } from "@/lib/cn";

export function Choices({
  id,
  label,
  param,
  chosen,
  choices,
}: {
  id: string;
  label: string;
  param: "events" | "section";
  chosen: string | undefined;
  choices: readonly (readonly [value: string, label: string])[];
}) {
  const all: readonly (readonly [string | undefined, string])[] = [[undefined, "All"], ...choices];
  return (
    <nav aria-label={label} className="-mx-1 flex gap-1.5 overflow-x-auto px-1 py-0.5">
      {all.map(([value, text]) => (
        <Link
          key={text}
          to="/devices/$deviceId"
          params={{ deviceId: id }}
          search={(now) => ({ ...now, [param]: value })}
          replace
          activeOptions={{ exact: true }}
          aria-current={chosen === value ? "true" : undefined}
          className={cn(
            "inline-flex h-7 shrink-0 items-center rounded-full border px-3 text-xs font-medium whitespace-nowrap max-sm:h-9",
            chosen === value
              ? "border-accent bg-accent-soft text-accent-ink"
              : "border-line-strong bg-surface text-muted hover:bg-surface-2 hover:text-text",
          )}
        >
          {text}
        </Link>
      ))}
    </nav>
  );
}
