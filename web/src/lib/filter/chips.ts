// A filter as chips: the parts joined by "and", and the facets that a click switches on and off.
import { filterText, parseFilter, type Expr } from "@/lib/filter/parse";

export interface Chip {
  text: string;
  expr: Expr;
}

/** The parts of a filter that all must hold; empty where the text cannot be read. */
export function chipsOf(source: string): Chip[] {
  const expr = tryParse(source);
  if (expr === null) return [];
  const parts = expr.kind === "and" ? expr.parts : [expr];
  return parts.map((part) => ({ expr: part, text: filterText(part) }));
}

export function tryParse(source: string): Expr | null {
  try {
    return parseFilter(source);
  } catch {
    return null;
  }
}

export function join(parts: readonly Expr[]): string {
  const [first] = parts;
  if (first === undefined) return "";
  return parts.length === 1 ? filterText(first) : filterText({ kind: "and", parts: [...parts] });
}

export function withoutChip(source: string, index: number): string {
  return join(chipsOf(source).flatMap((chip, i) => (i === index ? [] : [chip.expr])));
}

export function withPart(source: string, part: Expr): string {
  return join([...chipsOf(source).map((chip) => chip.expr), part]);
}

const ALIAS: Record<string, string> = { os: "os_type" };
const sameField = (a: string, b: string) => (ALIAS[a] ?? a) === (ALIAS[b] ?? b);

/** The values that a facet has switched on, from `field = a` or `field in (a, b)`. */
export function facetValues(source: string, field: string): string[] {
  if (field === "tag") {
    return chipsOf(source).flatMap(({ expr }) => (expr.kind === "tag" ? [expr.tag] : []));
  }
  return chipsOf(source).flatMap(({ expr }) => {
    if (expr.kind === "compare" && expr.op === "=" && sameField(expr.field, field)) {
      return [expr.value];
    }
    return expr.kind === "in" && !expr.negated && sameField(expr.field, field) ? expr.values : [];
  });
}

/** Switches one value of a facet. Values of a field widen the list; tags must all be there. */
export function toggleFacet(source: string, field: string, value: string): string {
  const on = facetValues(source, field);
  const parts = chipsOf(source).map((chip) => chip.expr);
  if (field === "tag") {
    return on.includes(value)
      ? join(parts.filter((part) => !(part.kind === "tag" && part.tag === value)))
      : join([...parts, { kind: "tag", tag: value }]);
  }
  const next = on.includes(value) ? on.filter((v) => v !== value) : [...on, value];
  const others = parts.filter(
    (part) =>
      !(
        (part.kind === "compare" && part.op === "=" && sameField(part.field, field)) ||
        (part.kind === "in" && !part.negated && sameField(part.field, field))
      ),
  );
  const [only] = next;
  if (only === undefined) return join(others);
  const mine: Expr =
    next.length === 1
      ? { kind: "compare", field, op: "=", value: only }
      : { kind: "in", field, values: next, negated: false };
  return join([...others, mine]);
}
