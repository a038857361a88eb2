// Completion for the filter text: fields, then operators, then values.
import type { Facets } from "@/lib/api/types";
import { FILTER_FIELDS } from "@/lib/filter/fields";

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

/** Known values of a field: its fixed ones, then what the facets have seen. */
export function knownValues(field: string, facets: Facets | undefined): string[] {
  const fixed = FILTER_FIELDS.find((entry) => entry.name === field)?.values ?? [];
  const seen =
    facets === undefined
      ? {}
      : field === "tag"
        ? facets.tags
        : field === "os" || field === "os_type"
          ? facets.os_type
          : field === "status"
            ? facets.status
            : field === "health"
              ? facets.health
              : {};
  return [...new Set([...fixed, ...Object.keys(seen)])];
}

function operatorsFor(kind: string): readonly string[] {
  switch (kind) {
    case "number":
      return [">", ">=", "<", "<=", "="];
    case "time":
      return ["<", ">"];
    case "tags":
      return [":"];
    case "text":
      return ["=", "~", "!="];
    default:
      return ["=", "!=", "in"];
  }
}

/** What could come at the end of `text`. */
export function complete(text: string, facets: Facets | undefined): Suggestion[] {
  const value = /(\w+)\s*(=|!=|~|:|>=|<=|>|<)\s*"?([^"\s()]*)$/.exec(text);
  if (value !== null) {
    const [whole, field = "", op = "", typed = ""] = value;
    const head = text.slice(0, text.length - whole.length);
    return matching(typed, knownValues(field, facets))
      .filter((option) => option !== typed)
      .slice(0, SUGGESTIONS_MAX)
      .map((option) => {
        const quoted = /^[\w.-]+$/.test(option) ? option : `"${option}"`;
        const glue = op === ":" ? ":" : ` ${op} `;
        return { label: option, hint: field, text: `${head}${field}${glue}${quoted} ` };
      });
  }
  const operator = /(?:^|[\s(])(\w+)\s+$/.exec(text);
  const field = FILTER_FIELDS.find((entry) => entry.name === operator?.[1]);
  if (field !== undefined) {
    return operatorsFor(field.kind).map((op) => ({
      label: op,
      hint: field.name,
      text: op === ":" ? `${text.trimEnd()}:` : `${text}${op} `,
    }));
  }
  const word = /(\w*)$/.exec(text)?.[1] ?? "";
  const head = text.slice(0, text.length - word.length);
  const fields = matching(
    word,
    FILTER_FIELDS.map((entry) => entry.name),
  )
    .slice(0, SUGGESTIONS_MAX)
    .map((name) => ({
      label: name,
      hint: FILTER_FIELDS.find((entry) => entry.name === name)?.hint ?? "",
      text: name === "tag" ? `${head}tag:` : `${head}${name} `,
    }));
  const afterTerm = word === "" && text.trim() !== "" && !/(and|or|not|\()\s*$/i.test(text);
  return afterTerm
    ? ["and", "or"].map((joiner) => ({ label: joiner, hint: "", text: `${head}${joiner} ` }))
    : fields;
}
