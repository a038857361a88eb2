// What a column says about itself beside TanStack Table's own definition.
import type { ColumnDef, RowData } from "@tanstack/react-table";

declare module "@tanstack/react-table" {
  // The names of the parameters belong to the interface that is widened.
  // eslint-disable-next-line @typescript-eslint/no-unused-vars
  interface ColumnMeta<TData extends RowData, TValue> {
    /** The name in the header, the column chooser and CSV. */
    label: string;
    align?: "right";
    /** Sorted from the top at the first click: numbers, where the highest are of interest. */
    highFirst?: boolean;
    /** Shown only when chosen. */
    hidden?: boolean;
    /** Cannot be taken away. */
    fixed?: boolean;
    /** The value as text for CSV, where it differs from what is shown. */
    csv?: (row: TData) => string | number | null | undefined;
  }
}

// eslint-disable-next-line @typescript-eslint/no-explicit-any -- a column's value type is its own affair
export type Column<T> = ColumnDef<T, any>;

export interface SortState {
  field: string;
  descending: boolean;
}

/** `-cpu_percent` <-> `{ field: "cpu_percent", descending: true }`. */
export function parseSort(text: string): SortState {
  return text.startsWith("-")
    ? { field: text.slice(1), descending: true }
    : { field: text, descending: false };
}

export function sortText(sort: SortState): string {
  return `${sort.descending ? "-" : ""}${sort.field}`;
}
