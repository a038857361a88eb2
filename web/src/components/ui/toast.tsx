// Short notes of what was done. Failures are shown where they happened, not here.
import { Check, X } from "lucide-react";
import { useEffect } from "react";
import { createStore, useStore } from "@/lib/store";

interface Toast {
  id: number;
  text: string;
}
const SHOWN_MS = 5_000;
const TOASTS_MAX = 3;
const toasts = createStore<readonly Toast[]>([]);
let next = 0;

export function toast(text: string) {
  next += 1;
  toasts.set([...toasts.get(), { id: next, text }].slice(-TOASTS_MAX));
}

function dismiss(id: number) {
  toasts.set(toasts.get().filter((entry) => entry.id !== id));
}

function ToastCard({ entry }: { entry: Toast }) {
  useEffect(() => {
    const timer = setTimeout(() => dismiss(entry.id), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [entry.id]);
  return (
    <div className="pointer-events-auto flex max-w-sm animate-rise items-center gap-2 rounded-lg bg-text px-3 py-2 text-sm text-page shadow-pop">
      <Check size={15} className="shrink-0" aria-hidden />
      <span className="min-w-0 break-words">{entry.text}</span>
      <button
        type="button"
        aria-label="Dismiss"
        className="ml-1 rounded p-0.5 opacity-70 hover:opacity-100"
        onClick={() => dismiss(entry.id)}
      >
        <X size={14} aria-hidden />
      </button>
    </div>
  );
}

export function Toasts() {
  const entries = useStore(toasts);
  return (
    <div
      role="status"
      className="pointer-events-none fixed right-4 bottom-4 z-[60] flex flex-col items-end gap-2 max-sm:left-4"
    >
      {entries.map((entry) => (
        <ToastCard key={entry.id} entry={entry} />
      ))}
    </div>
  );
}
