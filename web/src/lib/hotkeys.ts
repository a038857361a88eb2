// Keys that work anywhere on a page, but never while somebody types.
import { useEffect, useRef } from "react";

export function isTyping(target: EventTarget | null): boolean {
  if (!(target instanceof HTMLElement)) return false;
  if (target.isContentEditable) return true;
  if (target instanceof HTMLInputElement)
    return target.type !== "checkbox" && target.type !== "radio";
  return target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement;
}

/** True while a dialog or menu is open: the keys of the page behind it rest. */
function isCovered(): boolean {
  return document.querySelector('[role="dialog"], [role="menu"]') !== null;
}

export type Hotkeys = Record<string, (event: KeyboardEvent) => void>;

/** Keys by `event.key`; with `mod+` for Ctrl or Cmd. */
export function useHotkeys(keys: Hotkeys, options: { whenCovered?: boolean } = {}) {
  const latest = useRef(keys);
  useEffect(() => {
    latest.current = keys;
  });
  const whenCovered = options.whenCovered === true;
  useEffect(() => {
    const listen = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.altKey) return;
      const mod = event.ctrlKey || event.metaKey;
      const name = mod ? `mod+${event.key.toLowerCase()}` : event.key;
      const action = latest.current[name];
      if (action === undefined) return;
      if (!mod && isTyping(event.target)) return;
      if (!whenCovered && isCovered()) return;
      action(event);
    };
    document.addEventListener("keydown", listen);
    return () => document.removeEventListener("keydown", listen);
  }, [whenCovered]);
}
