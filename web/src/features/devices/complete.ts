// Completion for the filter text: fields, then operators, then values.
import type { DeviceField, Facets } from "@/lib/api/types";

export interface Suggestion {
  label: string;
  hint: string;
  /** The whole text after choosing it. */
  text: string;
}

const SUGGESTIONS_MAX = 8;

function matching(word: string, options: readonly string[]): string[] {
  const lower = word.toLowerCase();
  const starts = options.filter((option) => option.toLowerCase().startsWith(lower));
  const holds = options.filter(
    (option) => !starts.includes(option) && option.toLowerCase().includes(lower),
  );
  return [...starts, ...holds];
}

function byName(fields: readonly DeviceField[], name: string): DeviceField | undefined {
  const lower = name.toLowerCase();
  return fields.find((field) => field.name === lower || field.aliases.includes(lower));
}

/** Known values of a field: its fixed ones, then what the facets have seen. */
function knownValues(field: DeviceField, facets: Facets | undefined): string[] {
  const seen: Record<string, Record<string, number> | undefined> = {
    tag: facets?.tags,
    os_type: facets?.os_type,
    status: facets?.status,
    health: facets?.health,
  };
  return [...new Set([...field.values, ...Object.keys(seen[field.name] ?? {})])];
}

function glued(head: string, field: string, op: string, value: string): string {
  const quoted = /^[\w.-]+$/.test(value) ? value : `"${value}"`;
  return `${head}${field}${op === ":" ? ":" : ` ${op} `}${quoted} `;
}

/** What could come at the end of `text`. */
export function complete(
  text: string,
  fields: readonly DeviceField[],
  facets: Facets | undefined,
): Suggestion[] {
  const value = /(\w+)\s*(=|!=|~|:|>=|<=|>|<)\s*"?([^"\s()]*)$/.exec(text);
  if (value !== null) {
    const [whole, name = "", op = "", typed = ""] = value;
    const head = text.slice(0, text.length - whole.length);
    const field = byName(fields, name);
    return matching(typed, field === undefined ? [] : knownValues(field, facets))
      .filter((option) => option !== typed)
      .slice(0, SUGGESTIONS_MAX)
      .map((option) => ({ label: option, hint: name, text: glued(head, name, op, option) }));
  }
  const operator = byName(fields, /(?:^|[\s(])(\w+)\s+$/.exec(text)?.[1] ?? "");
  if (operator !== undefined) {
    return operator.operators.map((op) => ({
      label: op,
      hint: operator.unit ?? "",
      text:
        op === ":" ? `${text.trimEnd()}:` : op.endsWith("in") ? `${text}${op} (` : `${text}${op} `,
    }));
  }
  const word = /(\w*)$/.exec(text)?.[1] ?? "";
  const head = text.slice(0, text.length - word.length);
  const afterTerm = word === "" && text.trim() !== "" && !/(\b(and|or|not)|\()\s*$/i.test(text);
  if (afterTerm) {
    return ["and", "or"].map((joiner) => ({ label: joiner, hint: "", text: `${head}${joiner} ` }));
  }
  const names = matching(
    word,
    fields.map((field) => field.name),
  ).slice(0, SUGGESTIONS_MAX);
  return names.map((name) => ({
    label: name,
    hint: byName(fields, name)?.description ?? "",
    text: name === "tag" ? `${head}tag:` : `${head}${name} `,
  }));
}
