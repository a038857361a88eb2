// CSV of what a table shows (RFC 4180), safe to open in a spreadsheet.
import type { Column } from "@/components/data-table/types";

/** A cell; text that a spreadsheet would run as a formula gets an apostrophe before it. */
export function csvCell(value: string | number | null | undefined): string {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export function toCsv<T>(columns: readonly Column<T>[], rows: readonly T[]): string {
  const used = columns.filter((column) => column.meta?.csv !== undefined);
  const lines = [
    used.map((column) => csvCell(column.meta?.label)).join(","),
    ...rows.map((row) => used.map((column) => csvCell(column.meta?.csv?.(row))).join(",")),
  ];
  return `${lines.join("\r\n")}\r\n`;
}

export function download(name: string, text: string, type = "text/csv;charset=utf-8") {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
