// One endpoint: parameters, bodies, answers, examples.
import { Lock, LockOpen } from "lucide-react";
import { CopyButton } from "@/components/ui/copy";
import { Panel } from "@/components/ui/panel";
import { Prose } from "@/features/api-docs/components/prose";
import { SchemaView } from "@/features/api-docs/components/schema-view";
import {
  curlOf,
  exampleOf,
  typeWords,
  type Body,
  type Document,
  type Operation,
  type Parameter,
} from "@/features/api-docs/openapi";
import { cn } from "@/lib/cn";

const TONE: Record<string, string> = {
  GET: "text-accent-ink",
  POST: "text-online",
  PATCH: "text-warning",
  PUT: "text-warning",
  DELETE: "text-critical",
};

export function Method({ method }: { method: string }) {
  return (
    <span className={cn("w-12 shrink-0 font-mono text-2xs font-semibold", TONE[method])}>
      {method}
    </span>
  );
}

export function OperationView({
  document,
  operation,
}: {
  document: Document;
  operation: Operation;
}) {
  const example =
    operation.request === undefined
      ? undefined
      : (operation.request.example ?? exampleOf(document, operation.request.schema));
  const curl = curlOf(operation, location.origin, example);
  return (
    <div className="flex flex-col gap-4">
      <Panel>
        <h2 className="text-lg font-semibold">{operation.summary}</h2>
        <p className="mt-1 flex items-baseline gap-2 font-mono text-sm break-all">
          <Method method={operation.method} />
          {operation.path}
        </p>
        {operation.description !== "" && operation.description !== operation.summary && (
          <p className="mt-3 text-sm whitespace-pre-line text-muted">
            <Prose text={operation.description} />
          </p>
        )}
        <p className="mt-3 flex items-center gap-1.5 text-xs text-muted">
          {operation.open ? <LockOpen size={13} aria-hidden /> : <Lock size={13} aria-hidden />}
          {operation.open ? "Open to everybody" : "Needs a session or an access token"}
        </p>
      </Panel>
      {operation.parameters.length > 0 && <Parameters parameters={operation.parameters} />}
      {operation.request !== undefined && (
        <Panel title="Body">
          <BodyView document={document} body={operation.request} />
        </Panel>
      )}
      <Panel title="Try it in a terminal" actions={<CopyButton value={curl} />}>
        <Code text={curl} />
      </Panel>
      {operation.responses.map((response) => (
        <Panel
          key={response.status}
          title={`Answer ${response.status === "default" ? "otherwise" : response.status}`}
        >
          {response.description !== "" && (
            <p className="mb-2 text-sm text-muted">
              <Prose text={response.description} />
            </p>
          )}
          {response.body !== undefined && <BodyView document={document} body={response.body} />}
        </Panel>
      ))}
    </div>
  );
}

function Parameters({ parameters }: { parameters: Parameter[] }) {
  return (
    <Panel title="Parameters">
      <ul className="divide-y divide-line">
        {parameters.map((parameter) => (
          <li
            key={parameter.in + parameter.name}
            className="grid gap-x-4 gap-y-0.5 py-2 text-sm first:pt-0 last:pb-0 sm:grid-cols-[180px_1fr]"
          >
            <span>
              <span className="font-mono text-xs">{parameter.name}</span>
              <span className="block text-xs text-faint">
                {parameter.in}
                {parameter.required === true ? ", required" : ""}
              </span>
            </span>
            <span className="min-w-0">
              <span className="text-xs break-words text-muted">{typeWords(parameter.schema)}</span>
              {parameter.description !== undefined && (
                <span className="block">
                  <Prose text={parameter.description} />
                </span>
              )}
            </span>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

function BodyView({ document, body }: { document: Document; body: Body }) {
  const example: unknown = body.example ?? exampleOf(document, body.schema);
  return (
    <div className="flex flex-col gap-3">
      <p className="font-mono text-xs text-faint">{body.type}</p>
      <SchemaView document={document} schema={body.schema} />
      <details>
        <summary className="text-sm text-accent-ink hover:underline">Example</summary>
        <div className="mt-2">
          <Code text={JSON.stringify(example, null, 2)} />
        </div>
      </details>
    </div>
  );
}

function Code({ text }: { text: string }) {
  return (
    <pre
      tabIndex={0}
      className="max-h-96 overflow-auto rounded-md border border-line bg-surface-2 p-3 font-mono text-xs leading-5"
    >
      {text}
    </pre>
  );
}
