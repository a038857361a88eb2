// One facet: its values with counts, each a click.
import { ChevronDown } from "lucide-react";
import { useState } from "react";
import { buttonClass } from "@/components/ui/button";
import { Checkbox, Input } from "@/components/ui/form";
import { Popover } from "@/components/ui/menu";
import { cn } from "@/lib/cn";
import { facetValues, toggleFacet } from "@/lib/filter/chips";
import { count } from "@/lib/format/numbers";

const SEARCH_FROM = 9;

interface FacetProps {
  title: string;
  field: string;
  counts: Record<string, number> | undefined;
  label: (value: string) => string;
  filter: string;
  onFilter: (filter: string) => void;
}

export function Facet({ title, field, counts, label, filter, onFilter }: FacetProps) {
  const [find, setFind] = useState("");
  const on = facetValues(filter, field);
  const values = [...new Set([...on, ...Object.keys(counts ?? {})])]
    .filter((value) => label(value).toLowerCase().includes(find.toLowerCase()))
    .sort((a, b) => (counts?.[b] ?? 0) - (counts?.[a] ?? 0));
  return (
    <Popover
      label={title}
      className="w-60"
      trigger={
        <button
          type="button"
          className={cn(buttonClass("secondary"), on.length > 0 && "border-accent text-accent-ink")}
        >
          {title}
          {on.length > 0 && <span className="tabular">{on.length}</span>}
          <ChevronDown size={13} className="text-faint" aria-hidden />
        </button>
      }
    >
      {Object.keys(counts ?? {}).length >= SEARCH_FROM && (
        <Input
          aria-label={`Search ${title}`}
          placeholder="Search"
          value={find}
          onChange={(event) => setFind(event.target.value)}
          className="mb-2"
        />
      )}
      <div className="-m-1 max-h-64 overflow-auto">
        {values.map((value) => (
          <label
            key={value}
            className="flex cursor-pointer items-center gap-2 rounded-md px-2 py-1.5 hover:bg-surface-2"
          >
            <Checkbox
              checked={on.includes(value)}
              onChange={() => onFilter(toggleFacet(filter, field, value))}
            />
            <span className="min-w-0 flex-1 truncate">{label(value)}</span>
            <span className="text-xs text-faint tabular">{count(counts?.[value] ?? 0)}</span>
          </label>
        ))}
        {values.length === 0 && <p className="px-2 py-1 text-muted">None here.</p>}
      </div>
    </Popover>
  );
}
