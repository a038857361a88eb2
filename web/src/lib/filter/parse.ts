// The filter language, read in the browser: chips and text are two views of the same thing.
// The server decides what a filter means; this only splits it and points at mistakes early.

export const COMPARISONS = ["=", "!=", ">", ">=", "<", "<=", "~", "!~", ":"] as const;
export type Comparison = (typeof COMPARISONS)[number];

export type Expr =
  | { kind: "compare"; field: string; op: Comparison; value: string }
  | { kind: "in"; field: string; values: string[]; negated: boolean }
  | { kind: "empty"; field: string; negated: boolean }
  | { kind: "tag"; tag: string }
  | { kind: "text"; text: string }
  | { kind: "not"; inner: Expr }
  | { kind: "and" | "or"; parts: Expr[] };

/** Where and why a filter cannot be read. `at` counts characters from the start. */
export class FilterError extends Error {
  constructor(
    message: string,
    readonly at: number,
  ) {
    super(message);
    this.name = "FilterError";
  }
}

interface Token {
  kind: "word" | "string" | "op" | "open" | "close" | "comma" | "end";
  text: string;
  at: number;
}

const NESTING_MAX = 32;
const BREAKS = new Set(["(", ")", ",", '"', "=", "!", ">", "<", "~", ":"]);

function readString(source: string, start: number, quote: string): { value: string; next: number } {
  let value = "";
  for (let i = start + 1; i < source.length; i += 1) {
    const ch = source.charAt(i);
    const next = source.charAt(i + 1);
    if (ch === "\\" && (next === '"' || next === "'" || next === "\\")) {
      i += 1;
      value += next;
    } else if (ch === quote) {
      return { value, next: i + 1 };
    } else {
      value += ch;
    }
  }
  throw new FilterError("The text in quotes has no end. Add a closing quote.", start);
}

function tokenize(source: string): Token[] {
  const tokens: Token[] = [];
  let i = 0;
  while (i < source.length) {
    const ch = source.charAt(i);
    const two = source.slice(i, i + 2);
    if (/\s/.test(ch)) {
      i += 1;
    } else if (ch === "(" || ch === ")" || ch === ",") {
      tokens.push({ kind: ch === "(" ? "open" : ch === ")" ? "close" : "comma", text: ch, at: i });
      i += 1;
    } else if (ch === '"' || ch === "'") {
      const { value, next } = readString(source, i, ch);
      tokens.push({ kind: "string", text: value, at: i });
      i = next;
    } else if (["!=", ">=", "<=", "!~", "=="].includes(two)) {
      tokens.push({ kind: "op", text: two === "==" ? "=" : two, at: i });
      i += 2;
    } else if (["=", ">", "<", "~", ":"].includes(ch)) {
      tokens.push({ kind: "op", text: ch, at: i });
      i += 1;
    } else if (ch === "!") {
      throw new FilterError('"!" stands only before = or ~. Write "not" instead.', i);
    } else {
      const start = i;
      while (i < source.length && !/\s/.test(source.charAt(i)) && !BREAKS.has(source.charAt(i)))
        i += 1;
      tokens.push({ kind: "word", text: source.slice(start, i), at: start });
    }
  }
  tokens.push({ kind: "end", text: "", at: source.length });
  return tokens;
}

class Parser {
  private position = 0;
  constructor(private readonly tokens: Token[]) {}

  private peek(ahead = 0): Token {
    return this.tokens[Math.min(this.position + ahead, this.tokens.length - 1)] as Token;
  }
  private take(): Token {
    const token = this.peek();
    this.position += 1;
    return token;
  }
  private keyword(word: string): boolean {
    const token = this.peek();
    return token.kind === "word" && token.text.toLowerCase() === word;
  }

  whole(): Expr | null {
    if (this.peek().kind === "end") return null;
    const expr = this.or(0);
    const rest = this.peek();
    if (rest.kind !== "end") throw new FilterError(`"${rest.text}" is one too many here.`, rest.at);
    return expr;
  }

  private or(depth: number): Expr {
    const parts = [this.and(depth)];
    while (this.keyword("or")) {
      this.take();
      parts.push(this.and(depth));
    }
    return parts.length === 1 ? (parts[0] as Expr) : { kind: "or", parts };
  }

  private and(depth: number): Expr {
    const parts = [this.not(depth)];
    for (;;) {
      if (this.keyword("and")) {
        this.take();
        parts.push(this.not(depth));
      } else if (this.keyword("or") || !this.startsTerm()) {
        break;
      } else {
        parts.push(this.not(depth)); // Words side by side mean "and".
      }
    }
    return parts.length === 1 ? (parts[0] as Expr) : { kind: "and", parts };
  }

  private startsTerm(): boolean {
    return ["word", "string", "open"].includes(this.peek().kind);
  }

  private not(depth: number): Expr {
    if (depth > NESTING_MAX) {
      throw new FilterError("This filter is nested too deeply.", this.peek().at);
    }
    if (this.keyword("not")) {
      this.take();
      return { kind: "not", inner: this.not(depth + 1) };
    }
    if (this.peek().kind === "open") {
      this.take();
      const inner = this.or(depth + 1);
      const close = this.take();
      if (close.kind !== "close") throw new FilterError('A ")" is missing here.', close.at);
      return inner;
    }
    return this.term();
  }

  private term(): Expr {
    const token = this.take();
    if (token.kind === "string") return { kind: "text", text: token.text };
    if (token.kind !== "word") {
      throw new FilterError(
        token.kind === "end"
          ? "The filter stops too early."
          : `"${token.text}" needs a field before it.`,
        token.at,
      );
    }
    if (this.peek().kind === "op") {
      const op = this.take().text as Comparison;
      const value = this.take();
      if (value.kind !== "word" && value.kind !== "string") {
        throw new FilterError(`A value is missing after ${token.text} ${op}.`, value.at);
      }
      if (op === ":" && /^tags?$/i.test(token.text)) return { kind: "tag", tag: value.text };
      return { kind: "compare", field: token.text, op, value: value.text };
    }
    const empty = this.emptiness(token.text);
    if (empty !== null) return empty;
    const negated = this.keyword("not") && this.peek(1).text.toLowerCase() === "in";
    if (negated) this.take();
    if (this.keyword("in") && this.peek(1).kind === "open") return this.list(token.text, negated);
    return { kind: "text", text: token.text };
  }

  /** `is empty` and `is not empty`. */
  private emptiness(field: string): Expr | null {
    const word = (ahead: number) => this.peek(ahead).text.toLowerCase();
    if (word(0) !== "is") return null;
    const negated = word(1) === "not";
    if (word(negated ? 2 : 1) !== "empty") return null;
    this.position += negated ? 3 : 2;
    return { kind: "empty", field, negated };
  }

  private list(field: string, negated: boolean): Expr {
    this.take();
    this.take();
    const values: string[] = [];
    for (;;) {
      const value = this.take();
      if (value.kind !== "word" && value.kind !== "string") {
        throw new FilterError(`A value of ${field} is missing in the list.`, value.at);
      }
      values.push(value.text);
      const next = this.take();
      if (next.kind === "close") return { kind: "in", field, values, negated };
      if (next.kind !== "comma") throw new FilterError("Part the values with commas.", next.at);
    }
  }
}

/** Reads a filter; null for an empty one. Throws `FilterError`. */
export function parseFilter(source: string): Expr | null {
  return new Parser(tokenize(source)).whole();
}

function quote(value: string): string {
  return /^[\w.*@/-]+$/.test(value) && !/^(and|or|not|in|is)$/i.test(value)
    ? value
    : `"${value.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
}

/** Writes an expression back as text; `parseFilter` reads the same expression from it. */
export function filterText(expr: Expr): string {
  switch (expr.kind) {
    case "compare":
      if (expr.op === ":") return `${expr.field}:${quote(expr.value)}`;
      return `${expr.field} ${expr.op} ${quote(expr.value)}`;
    case "in":
      return `${expr.field} ${expr.negated ? "not in" : "in"} (${expr.values.map(quote).join(", ")})`;
    case "empty":
      return `${expr.field} is ${expr.negated ? "not " : ""}empty`;
    case "tag":
      return `tag:${quote(expr.tag)}`;
    case "text":
      return quote(expr.text);
    case "not":
      return `not ${wrapped(expr.inner, true)}`;
    case "and":
      return expr.parts.map((part) => wrapped(part, part.kind === "or")).join(" and ");
    case "or":
      return expr.parts.map((part) => wrapped(part, part.kind === "and")).join(" or ");
  }
}

function wrapped(expr: Expr, group: boolean): string {
  const text = filterText(expr);
  return group && (expr.kind === "and" || expr.kind === "or") ? `(${text})` : text;
}
