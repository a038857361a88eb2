import { describe, expect, it } from "vitest";
import { chipsOf, facetValues, toggleFacet, withoutChip, withPart } from "@/lib/filter/chips";
import { FilterError, filterText, parseFilter, type Expr } from "@/lib/filter/parse";

function roundTrip(text: string): string {
  const expr = parseFilter(text);
  return expr === null ? "" : filterText(expr);
}

describe("the filter language", () => {
  it.each([
    [
      'os = "windows" and ram_gb > 8 and not tag:patched',
      "os = windows and ram_gb > 8 and not tag:patched",
    ],
    ['hostname ~ "web*"', "hostname ~ web*"],
    ["status in (online, offline)", "status in (online, offline)"],
    ["status not in (online)", "status not in (online)"],
    [
      "(os = linux or os = macos) and cpu_percent >= 90",
      "(os = linux or os = macos) and cpu_percent >= 90",
    ],
    ["a = 1 or b = 2 and c = 3", "a = 1 or (b = 2 and c = 3)"],
    ["web server", "web and server"],
    ['site = "Main building"', 'site = "Main building"'],
    ['tag:"two words"', 'tag:"two words"'],
    ["hostname:web", "hostname:web"],
    ["last_user is empty", "last_user is empty"],
    ["last_user is not empty", "last_user is not empty"],
    ['name = "say \\"hi\\""', 'name = "say \\"hi\\""'],
    ["os == 'linux'", "os = linux"],
    ["", ""],
  ])("reads %s", (text, canonical) => {
    expect(roundTrip(text)).toBe(canonical);
    expect(roundTrip(canonical)).toBe(canonical);
  });

  it.each([
    ["os =", 4, "value is missing"],
    ["(os = linux", 11, '")" is missing'],
    ["= 3", 0, "needs a field"],
    ['os = "linux', 5, "no end"],
    ["status in (online", 17, "commas"],
    ["os ! linux", 3, "not"],
    ["os = linux )", 11, "one too many"],
    [`${"(".repeat(40)}a${")".repeat(40)}`, 33, "too deeply"],
  ])("points at the mistake in %s", (text, at, words) => {
    try {
      parseFilter(text);
      expect.unreachable();
    } catch (error) {
      expect(error).toBeInstanceOf(FilterError);
      expect((error as FilterError).at).toBe(at);
      expect((error as FilterError).message).toContain(words);
    }
  });

  it("survives any text", () => {
    const alphabet = [
      '"',
      "(",
      ")",
      "and",
      "or",
      "not",
      "in",
      "tag:",
      "=",
      "~",
      " ",
      "x",
      "\\",
      ",",
      "!",
      "is",
      "empty",
    ];
    let seed = 1;
    for (let i = 0; i < 3_000; i += 1) {
      let text = "";
      for (let j = 0; j < 12; j += 1) {
        seed = (seed * 48_271) % 2_147_483_647;
        text += `${alphabet[seed % alphabet.length] ?? ""}${seed % 3 === 0 ? " " : ""}`;
      }
      let expr: Expr | null = null;
      try {
        expr = parseFilter(text);
      } catch (error) {
        expect(error).toBeInstanceOf(FilterError);
        continue;
      }
      if (expr !== null)
        expect(parseFilter(filterText(expr))).toEqual(parseFilter(filterText(expr)));
    }
  });
});

describe("chips and facets", () => {
  it("shows the parts that must all hold", () => {
    expect(chipsOf("os = linux and not tag:lab").map((chip) => chip.text)).toEqual([
      "os = linux",
      "not tag:lab",
    ]);
    expect(chipsOf("a = 1 or b = 2").map((chip) => chip.text)).toEqual(["a = 1 or b = 2"]);
    expect(chipsOf("os = ")).toEqual([]);
  });

  it("keeps a group together when another part goes", () => {
    expect(withoutChip("(a = 1 or b = 2) and c = 3", 1)).toBe("a = 1 or b = 2");
    expect(withPart("a = 1 or b = 2", { kind: "tag", tag: "x" })).toBe(
      "(a = 1 or b = 2) and tag:x",
    );
  });

  it("widens a facet value by value and narrows it again", () => {
    let filter = toggleFacet("", "status", "online");
    expect(filter).toBe("status = online");
    filter = toggleFacet(filter, "status", "offline");
    expect(filter).toBe("status in (online, offline)");
    expect(facetValues(filter, "status")).toEqual(["online", "offline"]);
    filter = toggleFacet(filter, "status", "online");
    expect(filter).toBe("status = offline");
    expect(toggleFacet(filter, "status", "offline")).toBe("");
  });

  it("leaves other parts alone, and knows os by both names", () => {
    const filter = 'ram_gb > 8 and os_type = "linux"';
    expect(facetValues(filter, "os")).toEqual(["linux"]);
    expect(toggleFacet(filter, "os", "linux")).toBe("ram_gb > 8");
  });

  it("asks for every chosen tag", () => {
    const filter = toggleFacet(toggleFacet("", "tag", "a"), "tag", "b c");
    expect(filter).toBe('tag:a and tag:"b c"');
    expect(toggleFacet(filter, "tag", "a")).toBe('tag:"b c"');
  });
});
