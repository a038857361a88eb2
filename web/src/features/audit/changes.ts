// What a change changed, as rows of text.
import type { AuditEntry } from "@/lib/api/types";
import { humanize } from "@/lib/format/labels";

export interface ChangeRow {
  path: string;
  label: string;
  /** Nothing: the field was not there. */
  before: string | null;
  after: string | null;
  /** The server does not tell what it is. */
  secret: boolean;
}

const MASK = "…";

function shown(value: unknown): string | null {
  if (value === undefined || value === null) return null;
  if (typeof value === "string") return value;
  if (Array.isArray(value) && value.every((item) => typeof item === "string")) {
    return value.length === 0 ? "none" : value.join(", ");
  }
  return JSON.stringify(value);
}

export function changeRows(changes: AuditEntry["changes"]): ChangeRow[] {
  return Object.entries(changes).map(([path, { before, after }]) => ({
    path,
    label: humanize(path.replaceAll(".", " › ")),
    before: shown(before),
    after: shown(after),
    secret: before === MASK || after === MASK,
  }));
}
