// The form kit: label above, help below, the error beside the field in words.
import { Search } from "lucide-react";
import { useId, type ComponentProps, type ReactNode } from "react";
import type { FieldValues, Path, UseFormReturn } from "react-hook-form";
import { asProblem } from "@/lib/api/problem";
import { cn } from "@/lib/cn";

const CONTROL =
  "bg-surface border-field-line/60 text-text w-full rounded-md border px-2.5 text-sm outline-none transition-colors hover:border-field-line focus:border-accent focus:ring-2 focus:ring-accent/30 aria-invalid:border-critical disabled:opacity-60 max-sm:text-base";

export function Input({ className, ...rest }: ComponentProps<"input">) {
  return <input className={cn(CONTROL, "h-8 max-sm:h-10", className)} {...rest} />;
}

/** A field with a lens; `label` names it for who does not see that, `className` is the whole's. */
export function SearchInput({
  label,
  className,
  ...rest
}: { label: string } & Omit<ComponentProps<"input">, "type">) {
  return (
    <label className={cn("relative", className)}>
      <span className="sr-only">{label}</span>
      <Search
        size={14}
        className="pointer-events-none absolute top-1/2 left-2.5 -translate-y-1/2 text-faint"
        aria-hidden
      />
      <Input type="search" className="pl-8" {...rest} />
    </label>
  );
}

export function Select({ className, children, ...rest }: ComponentProps<"select">) {
  return (
    <select className={cn(CONTROL, "h-8 pr-7 max-sm:h-10", className)} {...rest}>
      {children}
    </select>
  );
}

export function Checkbox({ className, ...rest }: ComponentProps<"input">) {
  return (
    <input
      type="checkbox"
      className={cn("size-4 shrink-0 cursor-pointer accent-accent", className)}
      {...rest}
    />
  );
}

/** Properties that tie a control to its label, help and error. */
export interface ControlProps {
  id: string;
  "aria-describedby"?: string;
  "aria-invalid"?: true;
}

export function Field({
  label,
  help,
  error,
  optional,
  children,
  className,
}: {
  label: ReactNode;
  help?: ReactNode;
  error?: string | undefined;
  optional?: boolean;
  children: (control: ControlProps) => ReactNode;
  className?: string;
}) {
  const id = useId();
  const described = [
    help === undefined ? null : `${id}-help`,
    error === undefined ? null : `${id}-error`,
  ].filter((part) => part !== null);
  return (
    <div className={cn("flex flex-col gap-1", className)}>
      <label htmlFor={id} className="text-sm font-medium">
        {label}
        {optional === true && <span className="font-normal text-faint"> (optional)</span>}
      </label>
      {children({
        id,
        ...(described.length > 0 ? { "aria-describedby": described.join(" ") } : {}),
        ...(error === undefined ? {} : { "aria-invalid": true as const }),
      })}
      {error !== undefined && (
        <p id={`${id}-error`} role="alert" className="text-xs text-critical">
          {error}
        </p>
      )}
      {help !== undefined && (
        <p id={`${id}-help`} className="text-xs text-muted">
          {help}
        </p>
      )}
    </div>
  );
}

/**
 * Puts the server's field errors beside the fields. Returns what belongs to no field of the form.
 */
export function showServerErrors<T extends FieldValues>(
  form: UseFormReturn<T>,
  error: unknown,
  fields: readonly Path<T>[],
): string[] {
  const problem = asProblem(error);
  const elsewhere: string[] = [];
  for (const { field, message } of problem.errors) {
    const name = fields.find((candidate) => candidate === field);
    if (name === undefined) elsewhere.push(`${field}: ${message}`);
    else form.setError(name, { type: "server", message }, { shouldFocus: true });
  }
  return elsewhere;
}

/** Ctrl-Enter (or Cmd-Enter) submits from anywhere in the form. */
export function submitOnCtrlEnter(event: React.KeyboardEvent<HTMLFormElement>) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    event.currentTarget.requestSubmit();
  }
}
