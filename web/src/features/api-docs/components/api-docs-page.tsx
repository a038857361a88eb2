// The API, browsable: what the server itself says it can do.
import { queryOptions, useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { FileJson } from "lucide-react";
import { useMemo, type ReactNode } from "react";
import { buttonClass } from "@/components/ui/button";
import { SearchInput } from "@/components/ui/form";
import { Page, PageHeader, Panel, Skeleton } from "@/components/ui/panel";
import { ProblemNote } from "@/components/ui/problem";
import { Method, OperationView } from "@/features/api-docs/components/operation-view";
import { operationsOf, type Document, type Operation } from "@/features/api-docs/openapi";
import { problemFrom } from "@/lib/api/problem";
import { cn } from "@/lib/cn";
import { humanize } from "@/lib/format/labels";

const DOCUMENT_URL = "/api/v1/openapi.json";

const documentQuery = queryOptions({
  queryKey: ["openapi"],
  queryFn: async ({ signal }): Promise<Document> => {
    const response = await fetch(DOCUMENT_URL, { signal });
    const body: unknown = await response.json().catch(() => null);
    if (!response.ok) throw problemFrom(response, body);
    return body as Document;
  },
  staleTime: Infinity,
});

function matches(operation: Operation, find: string): boolean {
  const text =
    `${operation.method} ${operation.path} ${operation.summary} ${operation.group}`.toLowerCase();
  return find
    .toLowerCase()
    .split(/\s+/)
    .every((word) => text.includes(word));
}

function grouped(operations: readonly Operation[]): [string, Operation[]][] {
  const groups = new Map<string, Operation[]>();
  for (const operation of operations)
    groups.set(operation.group, [...(groups.get(operation.group) ?? []), operation]);
  return [...groups];
}

export function ApiDocsPage(): ReactNode {
  const { operation: chosen, find = "" } = useSearch({ from: "/app/settings/api" });
  const navigate = useNavigate();
  const { data, error, isError, refetch } = useQuery(documentQuery);
  const all = useMemo(() => (data === undefined ? [] : operationsOf(data)), [data]);
  const shown = all.filter((operation) => matches(operation, find));
  const current = all.find((operation) => operation.id === chosen) ?? all[0];
  return (
    <Page wide>
      <PageHeader
        title="API documentation"
        subtitle={
          data === undefined
            ? " "
            : `${data.info?.title ?? "API"} ${data.info?.version ?? ""}. Everything this dashboard does, it does through this API.`
        }
        actions={
          <a href={DOCUMENT_URL} className={buttonClass("secondary")} download="openapi.json">
            <FileJson size={14} aria-hidden /> OpenAPI document
          </a>
        }
      />
      {isError && (
        <ProblemNote
          error={error}
          title="The document could not be loaded"
          onRetry={() => void refetch()}
        />
      )}
      <div className="grid grid-cols-[minmax(0,1fr)] gap-4 lg:grid-cols-[300px_minmax(0,1fr)]">
        <div className="flex min-w-0 flex-col gap-2">
          <SearchInput
            label="Search endpoints"
            value={find}
            placeholder="Search endpoints"
            onChange={(event) =>
              void navigate({
                to: "/settings/api",
                search: (now) => ({
                  ...now,
                  find: event.target.value === "" ? undefined : event.target.value,
                }),
                replace: true,
              })
            }
          />
          <nav
            aria-label="Endpoints"
            className="max-h-[40dvh] overflow-auto rounded-lg border border-line bg-surface p-1.5 lg:max-h-[calc(100dvh-200px)]"
          >
            {data === undefined &&
              !isError &&
              Array.from({ length: 12 }, (_, i) => <Skeleton key={i} className="my-2 h-4" />)}
            {grouped(shown).map(([group, operations]) => (
              <section key={group}>
                <h2 className="px-2 pt-2.5 pb-1 text-xs text-faint">{humanize(group)}</h2>
                {operations.map((operation) => (
                  <Link
                    key={operation.id}
                    to="/settings/api"
                    search={(now) => ({ ...now, operation: operation.id })}
                    aria-current={operation === current}
                    className={cn(
                      "flex h-8 items-center gap-2 rounded-md px-2 text-sm hover:bg-surface-2",
                      operation === current && "bg-surface-2 font-medium",
                    )}
                  >
                    <Method method={operation.method} />
                    <span className="truncate">{operation.summary}</span>
                  </Link>
                ))}
              </section>
            ))}
            {data !== undefined && shown.length === 0 && (
              <p className="p-2 text-sm text-muted">No endpoint matches.</p>
            )}
          </nav>
        </div>
        <div className="min-w-0">
          {data === undefined || current === undefined ? (
            !isError && (
              <Panel>
                <Skeleton className="h-40" />
              </Panel>
            )
          ) : (
            <OperationView key={current.id} document={data} operation={current} />
          )}
        </div>
      </div>
    </Page>
  );
}
