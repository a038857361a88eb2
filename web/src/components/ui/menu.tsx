// Drop-down menus and popovers.
import * as Drop from "@radix-ui/react-dropdown-menu";
import * as Pop from "@radix-ui/react-popover";
import { Check } from "lucide-react";
import type { ReactNode } from "react";
import { cn } from "@/lib/cn";

const PANEL =
  "bg-surface border-line shadow-pop animate-rise z-50 rounded-lg border p-1 text-sm outline-none max-w-[calc(100vw-16px)]";

export function Menu({
  trigger,
  children,
  align = "end",
  className,
}: {
  trigger: ReactNode;
  children: ReactNode;
  align?: "start" | "end";
  className?: string;
}) {
  return (
    <Drop.Root modal={false}>
      <Drop.Trigger asChild>{trigger}</Drop.Trigger>
      <Drop.Portal>
        <Drop.Content
          align={align}
          sideOffset={6}
          collisionPadding={8}
          className={cn(PANEL, "min-w-44", className)}
        >
          {children}
        </Drop.Content>
      </Drop.Portal>
    </Drop.Root>
  );
}

const ITEM =
  "data-[highlighted]:bg-surface-2 flex cursor-pointer items-center gap-2 rounded-md px-2 py-1.5 outline-none data-[disabled]:cursor-not-allowed data-[disabled]:opacity-50";

export function MenuItem({
  children,
  onSelect,
  danger,
  disabled,
}: {
  children: ReactNode;
  onSelect: () => void;
  danger?: boolean;
  disabled?: boolean;
}) {
  return (
    <Drop.Item
      onSelect={onSelect}
      {...(disabled === undefined ? {} : { disabled })}
      className={cn(ITEM, danger === true && "text-critical")}
    >
      {children}
    </Drop.Item>
  );
}

export function MenuChoice({
  children,
  checked,
  onChange,
  keepOpen,
}: {
  children: ReactNode;
  checked: boolean;
  onChange: (next: boolean) => void;
  keepOpen?: boolean;
}) {
  return (
    <Drop.CheckboxItem
      checked={checked}
      onCheckedChange={onChange}
      onSelect={(event) => keepOpen === true && event.preventDefault()}
      className={ITEM}
    >
      <span className="flex size-4 items-center justify-center">
        <Drop.ItemIndicator>
          <Check size={14} aria-hidden />
        </Drop.ItemIndicator>
      </span>
      {children}
    </Drop.CheckboxItem>
  );
}

export function MenuLabel({ children }: { children: ReactNode }) {
  return <Drop.Label className="px-2 pt-1.5 pb-1 text-xs text-faint">{children}</Drop.Label>;
}

export function MenuLine() {
  return <Drop.Separator className="-mx-1 my-1 h-px bg-line" />;
}

export function Popover({
  trigger,
  children,
  open,
  onOpenChange,
  className,
  align = "start",
  label,
}: {
  trigger: ReactNode;
  children: ReactNode;
  open?: boolean;
  onOpenChange?: (open: boolean) => void;
  className?: string;
  align?: "start" | "end";
  label: string;
}) {
  return (
    <Pop.Root
      {...(open === undefined ? {} : { open })}
      {...(onOpenChange === undefined ? {} : { onOpenChange })}
    >
      <Pop.Trigger asChild>{trigger}</Pop.Trigger>
      <Pop.Portal>
        <Pop.Content
          align={align}
          sideOffset={6}
          collisionPadding={8}
          aria-label={label}
          className={cn(PANEL, "p-3", className)}
        >
          {children}
        </Pop.Content>
      </Pop.Portal>
    </Pop.Root>
  );
}
