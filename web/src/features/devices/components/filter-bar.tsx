// Search, facets and the filter: as chips, or as the text that the chips are made of.
import { Braces, Search, X } from "lucide-react";
import { useEffect, useRef, useState } from "react";
import { buttonClass } from "@/components/ui/button";
import { Facet } from "@/features/devices/components/facet";
import { FilterText } from "@/features/devices/components/filter-text";
import type { Facets } from "@/lib/api/types";
import { cn } from "@/lib/cn";
import { chipsOf, withoutChip } from "@/lib/filter/chips";
import { HEALTH_LABEL, osLabel, STATUS_LABEL } from "@/lib/format/labels";
import { useHotkeys } from "@/lib/hotkeys";

const TYPING_MS = 250;

interface FilterBarProps {
  q: string;
  filter: string;
  facets: Facets | undefined;
  onQ: (q: string) => void;
  onFilter: (filter: string) => void;
}

const label = (names: Record<string, string>) => (value: string) => names[value] ?? value;

export function FilterBar({ q, filter, facets, onQ, onFilter }: FilterBarProps) {
  const [asText, setAsText] = useState(false);
  const chips = chipsOf(filter);
  const unreadable = filter !== "" && chips.length === 0;
  const textOpen = asText || unreadable;
  return (
    <div className="flex flex-col gap-2 px-4 sm:px-6">
      <div className="flex items-center gap-2 max-sm:flex-col max-sm:items-stretch">
        <SearchField value={q} onChange={onQ} />
        <div className="flex items-center gap-2 max-sm:-mx-4 max-sm:overflow-x-auto max-sm:px-4">
          <Facet
            title="Status"
            field="status"
            counts={facets?.status}
            label={label(STATUS_LABEL)}
            filter={filter}
            onFilter={onFilter}
          />
          <Facet
            title="System"
            field="os"
            counts={facets?.os_type}
            label={osLabel}
            filter={filter}
            onFilter={onFilter}
          />
          <Facet
            title="Health"
            field="health"
            counts={facets?.health}
            label={label(HEALTH_LABEL)}
            filter={filter}
            onFilter={onFilter}
          />
          <Facet
            title="Tags"
            field="tag"
            counts={facets?.tags}
            label={(tag) => tag}
            filter={filter}
            onFilter={onFilter}
          />
          <button
            type="button"
            aria-pressed={textOpen}
            onClick={() => setAsText(!asText)}
            className={cn(buttonClass("ghost"), textOpen && "bg-surface-2 text-text")}
            title="Write the filter as text"
          >
            <Braces size={14} aria-hidden /> Filter
          </button>
        </div>
      </div>
      {textOpen ? (
        <FilterText
          value={filter}
          facets={facets}
          onChange={onFilter}
          onClose={() => setAsText(false)}
        />
      ) : (
        chips.length > 0 && (
          <ul aria-label="Filter" className="flex flex-wrap items-center gap-1.5">
            {chips.map((chip, index) => (
              <li
                key={chip.text}
                className="flex h-6 max-w-full items-center gap-1 rounded-md bg-accent-soft pl-2 text-xs text-accent-ink"
              >
                <button
                  type="button"
                  className="truncate font-mono"
                  title="Change it as text"
                  onClick={() => setAsText(true)}
                >
                  {chip.text}
                </button>
                <button
                  type="button"
                  aria-label={`Remove ${chip.text}`}
                  className="flex h-6 w-6 items-center justify-center rounded-r-md opacity-75 hover:opacity-100"
                  onClick={() => onFilter(withoutChip(filter, index))}
                >
                  <X size={12} aria-hidden />
                </button>
              </li>
            ))}
            <li>
              <button
                type="button"
                className="px-1.5 text-xs text-muted hover:text-text"
                onClick={() => onFilter("")}
              >
                Clear
              </button>
            </li>
          </ul>
        )
      )}
    </div>
  );
}

function SearchField({ value, onChange }: { value: string; onChange: (value: string) => void }) {
  const [text, setText] = useState(value);
  const input = useRef<HTMLInputElement>(null);
  const sent = useRef(value);
  // A view or the back button changed it from outside.
  useEffect(() => {
    if (value !== sent.current) {
      sent.current = value;
      setText(value);
    }
  }, [value]);
  useEffect(() => {
    const next = text.trim();
    if (next === sent.current) return;
    const timer = setTimeout(() => {
      sent.current = next;
      onChange(next);
    }, TYPING_MS);
    return () => clearTimeout(timer);
  }, [text, onChange]);
  useHotkeys({
    "/": (event) => {
      event.preventDefault();
      input.current?.focus();
      input.current?.select();
    },
  });
  return (
    <label className="flex h-8 w-64 items-center gap-2 rounded-md border border-field-line/60 bg-surface px-2.5 focus-within:border-accent focus-within:ring-2 focus-within:ring-accent/30 hover:border-field-line max-sm:h-10 max-sm:w-full">
      <Search size={14} className="shrink-0 text-faint" aria-hidden />
      <span className="sr-only">Search devices</span>
      <input
        ref={input}
        type="search"
        value={text}
        onChange={(event) => setText(event.target.value)}
        onKeyDown={(event) => {
          if (event.key !== "Escape") return;
          if (text === "") input.current?.blur();
          else setText("");
        }}
        placeholder="Search (press /)"
        className="w-full min-w-0 bg-transparent text-sm outline-none max-sm:text-base [&::-webkit-search-cancel-button]:hidden"
      />
    </label>
  );
}
