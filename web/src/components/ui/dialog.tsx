// Dialogs and the drawer of a phone. The overlay is ours: Radix's own adds a <style> element,
// which a strict content security policy refuses.
import * as Radix from "@radix-ui/react-dialog";
import { X } from "lucide-react";
import { useEffect, type ReactNode } from "react";
import { cn } from "@/lib/cn";

interface DialogProps {
  open: boolean;
  onClose: () => void;
  title: ReactNode;
  description?: ReactNode;
  children?: ReactNode;
  footer?: ReactNode;
  className?: string;
  /** Asked before Escape or a click outside closes it. */
  keepOpen?: boolean;
  hideTitle?: boolean;
  place?: "center" | "top" | "left" | "right";
}

const PLACE = {
  center:
    "left-1/2 top-[12vh] -translate-x-1/2 w-[calc(100vw-24px)] max-w-lg rounded-xl max-h-[80dvh]",
  top: "left-1/2 top-[10vh] -translate-x-1/2 w-[calc(100vw-24px)] max-w-xl rounded-xl max-h-[70dvh]",
  left: "left-0 top-0 h-dvh w-72 max-w-[85vw] rounded-r-xl",
  right: "right-0 top-0 h-dvh w-[440px] max-w-[100vw] sm:rounded-l-xl",
};

function useScrollLock(active: boolean) {
  useEffect(() => {
    if (!active) return;
    const { overflow } = document.body.style;
    document.body.style.overflow = "hidden";
    return () => {
      document.body.style.overflow = overflow;
    };
  }, [active]);
}

/** A dialog with a form is opened to type in it; the cross in its corner is not what one wants. */
function focusFirstField(event: Event) {
  const { currentTarget } = event;
  if (!(currentTarget instanceof HTMLElement)) return;
  const field = currentTarget.querySelector<HTMLElement>(
    "[data-body] :is(input, select, textarea)",
  );
  if (field === null) return;
  event.preventDefault();
  field.focus();
}

export function Dialog(props: DialogProps) {
  const { open, onClose, title, description, children, footer, keepOpen, place = "center" } = props;
  useScrollLock(open);
  return (
    <Radix.Root open={open} onOpenChange={(next) => !next && onClose()}>
      <Radix.Portal>
        <div className="fixed inset-0 z-40 animate-rise bg-overlay" aria-hidden />
        <Radix.Content
          {...(description === undefined ? { "aria-describedby": undefined } : {})}
          onOpenAutoFocus={focusFirstField}
          onInteractOutside={(event) => keepOpen === true && event.preventDefault()}
          onEscapeKeyDown={(event) => keepOpen === true && event.preventDefault()}
          className={cn(
            "fixed z-50 flex flex-col border border-line bg-surface shadow-pop outline-none",
            "animate-rise",
            PLACE[place],
            props.className,
          )}
        >
          <header
            className={cn(
              "flex items-start gap-3 border-b border-line px-5 py-3.5",
              props.hideTitle === true && "sr-only",
            )}
          >
            <div className="min-w-0 flex-1">
              <Radix.Title className="text-lg font-semibold break-words">{title}</Radix.Title>
              {description !== undefined && (
                <Radix.Description className="mt-0.5 text-sm text-muted">
                  {description}
                </Radix.Description>
              )}
            </div>
            {keepOpen !== true && (
              <Radix.Close
                className="-mr-1.5 rounded-md p-1.5 text-muted hover:bg-surface-2"
                aria-label="Close"
              >
                <X size={16} aria-hidden />
              </Radix.Close>
            )}
          </header>
          <div data-body className="min-h-0 flex-1 overflow-auto px-5 py-4">
            {children}
          </div>
          {footer !== undefined && (
            <footer className="flex flex-wrap justify-end gap-2 border-t border-line px-5 py-3">
              {footer}
            </footer>
          )}
        </Radix.Content>
      </Radix.Portal>
    </Radix.Root>
  );
}
