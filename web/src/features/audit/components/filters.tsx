// What the list is narrowed to. All of it lives in the address, so that a link shows the same.
import { X } from "lucide-react";
import { useEffect, useState } from "react";
import { Button } from "@/components/ui/button";
import { SearchInput, Select } from "@/components/ui/form";
import { actionWords } from "@/features/audit/actions";
import { DEFAULT_RANGE } from "@/features/audit/queries";
import { humanize } from "@/lib/format/labels";
import {
  AUDIT_RANGES,
  AUDIT_RESULTS,
  compact,
  oneOf,
  type AuditRange,
  type AuditSearch,
} from "@/lib/url";

const RANGE_WORDS: Record<AuditRange, string> = {
  "24h": "Last 24 hours",
  "7d": "Last 7 days",
  "30d": "Last 30 days",
  "90d": "Last 90 days",
  all: "All time",
};
const TYPING_MS = 250;

export function Filters({
  search,
  onChange,
}: {
  search: AuditSearch;
  onChange: (next: AuditSearch) => void;
}) {
  const { q = "", since = DEFAULT_RANGE, result = "", action, actor } = search;
  return (
    <div className="flex flex-wrap items-center gap-2 px-4 sm:px-6">
      <TextFilter key={q} value={q} onChange={(text) => onChange({ ...search, q: text })} />
      <Select
        aria-label="When"
        className="w-40 max-sm:flex-1"
        value={since}
        onChange={(event) =>
          onChange({ ...search, since: oneOf(event.target.value, AUDIT_RANGES) ?? DEFAULT_RANGE })
        }
      >
        {AUDIT_RANGES.map((one) => (
          <option key={one} value={one}>
            {RANGE_WORDS[one]}
          </option>
        ))}
      </Select>
      <Select
        aria-label="Result"
        className="w-36 max-sm:flex-1"
        value={result}
        onChange={(event) => {
          const wanted = oneOf(event.target.value, AUDIT_RESULTS);
          onChange(compact({ ...search, result: wanted }));
        }}
      >
        <option value="">Any result</option>
        {AUDIT_RESULTS.map((one) => (
          <option key={one} value={one}>
            {humanize(one)}
          </option>
        ))}
      </Select>
      {action !== undefined && (
        <Chip
          label={`Action: ${actionWords(action)}`}
          onRemove={() => onChange(compact({ ...search, action: undefined }))}
        />
      )}
      {actor !== undefined && (
        <Chip
          label={`Who: ${actor}`}
          onRemove={() => onChange(compact({ ...search, actor: undefined }))}
        />
      )}
    </div>
  );
}

function Chip({ label, onRemove }: { label: string; onRemove: () => void }) {
  return (
    <span className="inline-flex h-7 items-center gap-1 rounded-full bg-accent-soft pl-3 text-xs text-accent-ink">
      {label}
      <Button variant="ghost" size="sm" onClick={onRemove} aria-label={`Remove ${label}`}>
        <X size={12} aria-hidden />
      </Button>
    </span>
  );
}

/** Asks when the typing pauses. */
function TextFilter({ value, onChange }: { value: string; onChange: (text: string) => void }) {
  const [text, setText] = useState(value);
  useEffect(() => {
    if (text === value) return;
    const timer = setTimeout(() => onChange(text.trim()), TYPING_MS);
    return () => clearTimeout(timer);
  }, [text, value, onChange]);
  return (
    <SearchInput
      label="Search the audit log"
      className="w-72 max-sm:w-full"
      placeholder="Search actions, people, names"
      value={text}
      onChange={(event) => setText(event.target.value)}
    />
  );
}
