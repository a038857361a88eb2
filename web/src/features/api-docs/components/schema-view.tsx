// The members of an object, and those of the objects inside it on demand.
import { Prose } from "@/features/api-docs/components/prose";
import {
  membersOf,
  refName,
  resolve,
  typeWords,
  type Document,
  type Schema,
} from "@/features/api-docs/openapi";

const DEPTH_MAX = 5;

/** The object that a member holds, directly, in a list, in a map or as one of several. */
function inner(schema: Schema): Schema | undefined {
  if (refName(schema) !== undefined || schema.properties !== undefined) return schema;
  if (schema.items !== undefined) return inner(schema.items);
  if (typeof schema.additionalProperties === "object") return inner(schema.additionalProperties);
  return [...(schema.oneOf ?? []), ...(schema.anyOf ?? []), ...(schema.allOf ?? [])]
    .map(inner)
    .find((one) => one !== undefined);
}

export function SchemaView({
  document,
  schema,
  depth = 0,
}: {
  document: Document;
  schema: Schema | undefined;
  depth?: number;
}) {
  const list = resolve(document, schema)?.items;
  const { properties, required } = membersOf(document, list ?? schema);
  const names = Object.keys(properties);
  if (names.length === 0) return <p className="text-sm text-muted">{typeWords(schema)}</p>;
  return (
    <ul className="divide-y divide-line rounded-md border border-line text-sm">
      {names.map((name) => {
        const member = properties[name] as Schema;
        const child = inner(member);
        const deeper =
          child !== undefined &&
          depth < DEPTH_MAX &&
          Object.keys(membersOf(document, child).properties).length > 0;
        const description = member.description ?? resolve(document, child)?.description;
        return (
          <li key={name} className="px-3 py-2">
            <div className="flex flex-wrap items-baseline gap-x-3">
              <span className="font-mono text-xs">{name}</span>
              <span className="text-xs break-words text-muted">{typeWords(member)}</span>
              {!required.includes(name) && (
                <span className="text-xs text-faint">may be missing</span>
              )}
            </div>
            {description !== undefined && (
              <p className="mt-0.5 text-xs text-muted">
                <Prose text={description} />
              </p>
            )}
            {deeper && (
              <details className="mt-1">
                <summary className="text-xs text-accent-ink hover:underline">Members</summary>
                <div className="mt-1.5">
                  <SchemaView document={document} schema={child} depth={depth + 1} />
                </div>
              </details>
            )}
          </li>
        );
      })}
    </ul>
  );
}
