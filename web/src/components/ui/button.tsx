// Buttons and links that look like them.
import type { ComponentProps } from "react";
import { cn } from "@/lib/cn";

export type ButtonVariant = "primary" | "secondary" | "ghost" | "danger" | "dangerGhost";

const VARIANT: Record<ButtonVariant, string> = {
  primary: "bg-accent text-accent-text hover:bg-accent-hover border-transparent",
  secondary: "bg-surface text-text border-line-strong hover:bg-surface-2",
  ghost: "border-transparent text-muted hover:bg-surface-2 hover:text-text",
  danger: "bg-[#b91c1c] text-white border-transparent hover:bg-[#991b1b]",
  dangerGhost: "border-transparent text-critical hover:bg-critical-soft",
};

export function buttonClass(
  variant: ButtonVariant = "secondary",
  size: "sm" | "md" | "icon" = "md",
) {
  return cn(
    "inline-flex shrink-0 items-center justify-center gap-1.5 rounded-md border font-medium whitespace-nowrap transition-colors select-none disabled:opacity-55 aria-disabled:opacity-55",
    size === "sm" && "h-7 px-2.5 text-xs",
    size === "md" && "h-8 px-3 text-sm max-sm:h-9",
    size === "icon" && "size-8 text-sm",
    VARIANT[variant],
  );
}

interface ButtonProps extends ComponentProps<"button"> {
  variant?: ButtonVariant;
  size?: "sm" | "md" | "icon";
  busy?: boolean;
}

export function Button({
  variant,
  size,
  busy,
  className,
  children,
  disabled,
  ...rest
}: ButtonProps) {
  return (
    <button
      type="button"
      className={cn(buttonClass(variant, size), className)}
      disabled={disabled === true || busy === true}
      aria-busy={busy}
      {...rest}
    >
      {children}
      {busy === true && <span className="animate-pulse">…</span>}
    </button>
  );
}
