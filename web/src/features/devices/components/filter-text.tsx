// The filter as text, with completion and with mistakes pointed at before they are sent.
import { useQuery } from "@tanstack/react-query";
import { useEffect, useId, useRef, useState } from "react";
import { Button } from "@/components/ui/button";
import { complete } from "@/features/devices/complete";
import { deviceFieldsQuery } from "@/features/devices/queries";
import type { Facets } from "@/lib/api/types";
import { cn } from "@/lib/cn";
import { FilterError, parseFilter } from "@/lib/filter/parse";

function mistake(text: string): string | null {
  try {
    parseFilter(text);
    return null;
  } catch (error) {
    return error instanceof FilterError
      ? `At character ${error.at + 1}: ${error.message}`
      : String(error);
  }
}

interface FilterTextProps {
  value: string;
  facets: Facets | undefined;
  onChange: (filter: string) => void;
  onClose: () => void;
}

export function FilterText({ value, facets, onChange, onClose }: FilterTextProps) {
  const [text, setText] = useState(value);
  const [focused, setFocused] = useState(false);
  const [at, setAt] = useState(-1);
  const input = useRef<HTMLInputElement>(null);
  const { data: fields } = useQuery(deviceFieldsQuery);
  const id = useId();
  const error = mistake(text);
  const suggestions = focused ? complete(text, fields ?? [], facets) : [];
  useEffect(() => setText(value), [value]);
  useEffect(() => input.current?.focus(), []);

  const choose = (index: number) => {
    const chosen = suggestions[index];
    if (chosen === undefined) return;
    setText(chosen.text);
    setAt(-1);
    input.current?.focus();
  };
  const submit = () => {
    if (error === null) onChange(text.trim());
  };
  const onKey = (event: React.KeyboardEvent) => {
    const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    if (step !== 0 && suggestions.length > 0) {
      event.preventDefault();
      setAt((at + step + suggestions.length) % suggestions.length);
    } else if (event.key === "Tab" && !event.shiftKey && at >= 0) {
      event.preventDefault();
      choose(at);
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (at >= 0) choose(at);
      else submit();
    } else if (event.key === "Escape") {
      event.preventDefault();
      onClose();
    }
  };
  return (
    <div className="relative">
      <div className="flex items-center gap-2">
        <input
          ref={input}
          role="combobox"
          aria-label="Filter"
          aria-expanded={suggestions.length > 0}
          aria-controls={`${id}-list`}
          aria-invalid={error !== null}
          aria-describedby={`${id}-note`}
          {...(at >= 0 ? { "aria-activedescendant": `${id}-${at}` } : {})}
          autoComplete="off"
          spellCheck={false}
          value={text}
          placeholder="os = windows and ram_gb > 8 and not tag:patched"
          onChange={(event) => {
            setText(event.target.value);
            setAt(-1);
          }}
          onKeyDown={onKey}
          onFocus={() => setFocused(true)}
          onBlur={() => setFocused(false)}
          className={cn(
            "h-8 w-full min-w-0 rounded-md border border-field-line/60 bg-surface px-2.5 font-mono text-xs outline-none focus:border-accent focus:ring-2 focus:ring-accent/30 max-sm:h-10",
            error !== null && "border-critical",
          )}
        />
        <Button variant="primary" onClick={submit} disabled={error !== null}>
          Apply
        </Button>
      </div>
      <p
        id={`${id}-note`}
        className={cn("mt-1 text-xs", error === null ? "text-faint" : "text-critical")}
      >
        {error ??
          "Fields with =, !=, >, <, ~ (pattern), in (a, b); join with and, or, not. Enter applies it."}
      </p>
      {suggestions.length > 0 && (
        <ul
          id={`${id}-list`}
          role="listbox"
          aria-label="Suggestions"
          className="absolute top-9 left-0 z-20 w-80 max-w-full rounded-lg border border-line bg-surface p-1 text-sm shadow-pop"
        >
          {suggestions.map((suggestion, index) => (
            // The field takes the keys; the row answers the pointer.
            // eslint-disable-next-line jsx-a11y/click-events-have-key-events
            <li
              key={suggestion.label}
              id={`${id}-${index}`}
              role="option"
              tabIndex={-1}
              aria-selected={index === at}
              onMouseDown={(event) => event.preventDefault()}
              onClick={() => choose(index)}
              className={cn(
                "flex cursor-pointer items-center justify-between gap-3 rounded-md px-2 py-1 hover:bg-surface-2",
                index === at && "bg-surface-2",
              )}
            >
              <span className="font-mono text-xs">{suggestion.label}</span>
              <span className="truncate text-xs text-faint">{suggestion.hint}</span>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}
