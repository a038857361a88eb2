// Reads an OpenAPI document into what the page shows. The document is data: nothing in it is trusted.

export interface Schema {
  $ref?: string;
  type?: string | string[];
  format?: string;
  enum?: unknown[];
  const?: unknown;
  items?: Schema;
  properties?: Record<string, Schema>;
  additionalProperties?: Schema | boolean;
  required?: string[];
  oneOf?: Schema[];
  anyOf?: Schema[];
  allOf?: Schema[];
  description?: string;
  example?: unknown;
  default?: unknown;
}

export interface Parameter {
  name: string;
  in: string;
  required?: boolean;
  description?: string;
  schema?: Schema;
}

interface Media {
  schema?: Schema;
  example?: unknown;
}

export interface Body {
  type: string;
  schema: Schema | undefined;
  example: unknown;
}

export interface Operation {
  id: string;
  method: string;
  path: string;
  group: string;
  summary: string;
  description: string;
  open: boolean;
  parameters: Parameter[];
  request: Body | undefined;
  responses: { status: string; description: string; body: Body | undefined }[];
}

interface RawOperation {
  operationId?: string;
  tags?: string[];
  summary?: string;
  description?: string;
  parameters?: Parameter[];
  requestBody?: { content?: Record<string, Media> };
  responses?: Record<string, { description?: string; content?: Record<string, Media> }>;
  security?: Record<string, unknown>[];
}

export interface Document {
  info?: { title?: string; version?: string; description?: string };
  paths?: Record<string, Record<string, RawOperation>>;
  components?: { schemas?: Record<string, Schema> };
}

const METHODS = ["get", "post", "put", "patch", "delete"];

function bodyOf(content: Record<string, Media> | undefined): Body | undefined {
  const [entry] = Object.entries(content ?? {});
  return entry === undefined
    ? undefined
    : { type: entry[0], schema: entry[1].schema, example: entry[1].example };
}

export function operationsOf(document: Document): Operation[] {
  return Object.entries(document.paths ?? {}).flatMap(([path, item]) =>
    METHODS.flatMap((method) => {
      const raw = item[method];
      if (raw === undefined) return [];
      return [
        {
          id: raw.operationId ?? `${method} ${path}`,
          method: method.toUpperCase(),
          path,
          group: raw.tags?.[0] ?? "Other",
          summary: (raw.summary ?? raw.operationId ?? path).replace(/\.$/, ""),
          description: raw.description ?? "",
          open: raw.security === undefined || raw.security.length === 0,
          parameters: raw.parameters ?? [],
          request: bodyOf(raw.requestBody?.content),
          responses: Object.entries(raw.responses ?? {}).map(([status, response]) => ({
            status,
            description: response.description ?? "",
            body: bodyOf(response.content),
          })),
        },
      ];
    }),
  );
}

export function resolve(document: Document, schema: Schema | undefined): Schema | undefined {
  const name = schema?.$ref?.replace("#/components/schemas/", "");
  return name === undefined ? schema : document.components?.schemas?.[name];
}

export function refName(schema: Schema | undefined): string | undefined {
  return schema?.$ref?.replace("#/components/schemas/", "");
}

/** All members of an object, with those of `allOf` folded in. */
export function membersOf(
  document: Document,
  schema: Schema | undefined,
): { properties: Record<string, Schema>; required: string[] } {
  const found = resolve(document, schema);
  const properties = { ...found?.properties };
  const required = [...(found?.required ?? [])];
  for (const part of found?.allOf ?? []) {
    const inner = membersOf(document, part);
    Object.assign(properties, inner.properties);
    required.push(...inner.required);
  }
  return { properties, required };
}

/** A type in words: `text`, `list of Device`, `number or nothing`. */
export function typeWords(schema: Schema | undefined): string {
  if (schema === undefined) return "anything";
  const name = refName(schema);
  if (name !== undefined) return name;
  const choices = schema.oneOf ?? schema.anyOf;
  if (choices !== undefined) {
    const words = choices.map(typeWords);
    return [
      ...words.filter((word) => word !== "nothing"),
      ...words.filter((word) => word === "nothing"),
    ].join(" or ");
  }
  if (schema.allOf?.length === 1) return typeWords(schema.allOf[0]);
  if (schema.enum !== undefined)
    return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const types = Array.isArray(schema.type)
    ? schema.type
    : [schema.type ?? (schema.properties === undefined ? "anything" : "object")];
  return types.map((type) => simpleWords(type, schema)).join(" or ");
}

function simpleWords(type: string, schema: Schema): string {
  switch (type) {
    case "null":
      return "nothing";
    case "array":
      return `list of ${typeWords(schema.items)}`;
    case "string":
      return schema.format === "date-time" ? "time" : schema.format === "uuid" ? "id" : "text";
    case "integer":
      return "whole number";
    case "boolean":
      return "true or false";
    case "object":
      return typeof schema.additionalProperties === "object"
        ? `map of ${typeWords(schema.additionalProperties)}`
        : "object";
    default:
      return type;
  }
}

const DEPTH_MAX = 6;

/** A made-up value of a schema, where the document gives none. */
export function exampleOf(document: Document, schema: Schema | undefined, depth = 0): unknown {
  if (schema === undefined || depth > DEPTH_MAX) return null;
  if (schema.example !== undefined) return schema.example;
  if (schema.const !== undefined) return schema.const;
  const found = resolve(document, schema);
  if (found === undefined) return null;
  if (found !== schema) return exampleOf(document, found, depth + 1);
  if (schema.enum !== undefined) return schema.enum[0];
  const choice = (schema.oneOf ?? schema.anyOf)?.find((one) => one.type !== "null");
  if (choice !== undefined) return exampleOf(document, choice, depth + 1);
  const { properties } = membersOf(document, schema);
  if (Object.keys(properties).length > 0) {
    return Object.fromEntries(
      Object.entries(properties).map(([key, value]) => [
        key,
        exampleOf(document, value, depth + 1),
      ]),
    );
  }
  const type = Array.isArray(schema.type) ? schema.type.find((one) => one !== "null") : schema.type;
  switch (type) {
    case "array":
      return [exampleOf(document, schema.items, depth + 1)];
    case "string":
      return schema.format === "date-time"
        ? "2026-11-24T13:00:00.000Z"
        : schema.format === "uuid"
          ? "0193591e-7a4c-7cc1-9d2b-3f1f0b0f6a11"
          : "text";
    case "integer":
    case "number":
      return 1;
    case "boolean":
      return true;
    default:
      return {};
  }
}

export function curlOf(operation: Operation, origin: string, body: unknown): string {
  const parts = [
    `curl ${operation.method === "GET" ? "" : `-X ${operation.method} `}'${origin}${operation.path}'`,
  ];
  if (!operation.open) parts.push(`-H 'Authorization: Bearer TOKEN'`);
  if (operation.parameters.some((parameter) => parameter.name.toLowerCase() === "if-match"))
    parts.push(`-H 'If-Match: "1"'`);
  if (body !== undefined)
    parts.push(`-H 'Content-Type: application/json'`, `-d '${JSON.stringify(body)}'`);
  return parts.join(" \\\n  ");
}
