import { describe, expect, it } from "vitest";
import { csvCell, toCsv } from "@/components/data-table/csv";
import { parsePrefs, visibilityOf } from "@/components/data-table/prefs";
import { toggled } from "@/components/data-table/selection";
import { parseSort, sortText, type Column } from "@/components/data-table/types";

interface Row {
  name: string;
  size: number | null;
}
const COLUMNS: Column<Row>[] = [
  { id: "name", header: "Name", meta: { label: "Name, full", csv: (row) => row.name } },
  { id: "size", header: "Size", meta: { label: "Size", hidden: true, csv: (row) => row.size } },
  { id: "extra", header: "Extra", meta: { label: "Extra" } },
];

describe("CSV", () => {
  it("quotes what needs it and disarms formulas", () => {
    expect(csvCell('say "hi", twice')).toBe('"say ""hi"", twice"');
    expect(csvCell("=HYPERLINK(1)")).toBe("'=HYPERLINK(1)");
    expect(csvCell("@sum")).toBe("'@sum");
    expect(csvCell(-4.5)).toBe("-4.5");
    expect(csvCell(null)).toBe("");
  });
  it("writes the columns that have a value, shown or not", () => {
    expect(toCsv(COLUMNS, [{ name: "a\nb", size: null }])).toBe('"Name, full",Size\r\n"a\nb",\r\n');
  });
});

describe("columns", () => {
  it("hides by default and shows by choice", () => {
    expect(visibilityOf(COLUMNS, { visibility: {}, sizing: {} })).toEqual({ size: false });
    expect(visibilityOf(COLUMNS, { visibility: { size: true, name: false }, sizing: {} })).toEqual({
      size: true,
      name: false,
    });
  });
  it("ignores stored nonsense", () => {
    expect(parsePrefs({ visibility: { a: "yes", b: false }, sizing: { a: -4, b: 100 } })).toEqual({
      visibility: { b: false },
      sizing: { b: 100 },
    });
    expect(parsePrefs("x")).toBeNull();
  });
});

describe("selection", () => {
  const order = ["a", "b", "c", "d", "e"];
  it("takes one, then a range in either direction", () => {
    const one = toggled(new Set(), order, 1, null);
    expect([...one]).toEqual(["b"]);
    expect([...toggled(one, order, 3, 1)].sort()).toEqual(["b", "c", "d"]);
    expect([...toggled(new Set(["d"]), order, 0, 3)].sort()).toEqual(["a", "b", "c", "d"]);
  });
  it("takes a range away when it starts on a chosen row", () => {
    expect([...toggled(new Set(order), order, 2, 1)].sort()).toEqual(["a", "d", "e"]);
  });
  it("does nothing beyond the list", () => {
    expect([...toggled(new Set(["a"]), order, 9, null)]).toEqual(["a"]);
  });
});

describe("sort", () => {
  it("is a field with a sign", () => {
    expect(parseSort("-cpu_percent")).toEqual({ field: "cpu_percent", descending: true });
    expect(sortText({ field: "hostname", descending: false })).toBe("hostname");
  });
});
