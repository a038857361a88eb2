import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import {
  curlOf,
  exampleOf,
  operationsOf,
  typeWords,
  type Document,
} from "@/features/api-docs/openapi";

const document = JSON.parse(readFileSync("openapi.json", "utf8")) as Document;

describe("the API documentation", () => {
  it("shows every operation of the document", () => {
    const operations = operationsOf(document);
    expect(operations.length).toBeGreaterThan(20);
    expect(new Set(operations.map((operation) => operation.id)).size).toBe(operations.length);
    for (const operation of operations) {
      expect(operation.summary).not.toBe("");
      expect(curlOf(operation, "https://breeze.example", undefined)).toContain(operation.path);
      for (const response of operation.responses)
        expect(() => exampleOf(document, response.body?.schema)).not.toThrow();
    }
  });
  it("says types in words", () => {
    expect(typeWords({ type: ["string", "null"] })).toBe("text or nothing");
    expect(typeWords({ type: "array", items: { $ref: "#/components/schemas/Device" } })).toBe(
      "list of Device",
    );
    expect(typeWords({ oneOf: [{ type: "null" }, { $ref: "#/components/schemas/Device" }] })).toBe(
      "Device or nothing",
    );
    expect(typeWords({ enum: ["a", "b"] })).toBe('"a" | "b"');
  });
  it("does not run away on a schema that holds itself", () => {
    const loop: Document = {
      components: {
        schemas: { A: { type: "object", properties: { a: { $ref: "#/components/schemas/A" } } } },
      },
    };
    expect(JSON.stringify(exampleOf(loop, { $ref: "#/components/schemas/A" })).length).toBeLessThan(
      200,
    );
  });
});
