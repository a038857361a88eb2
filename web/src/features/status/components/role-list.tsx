// Many roles, one line each: what is in trouble first, gauges on demand.
import { CircleCheck, CircleX, TriangleAlert } from "lucide-react";
import { Panel } from "@/components/ui/panel";
import { RelativeTime } from "@/components/ui/time";
import { Gauges } from "@/features/status/components/role-card";
import type { RoleInfo } from "@/lib/api/types";
import { humanize } from "@/lib/format/labels";
import { duration, millis } from "@/lib/format/time";
import { useNow } from "@/lib/now";

export function rank(role: RoleInfo): number {
  return role.gone ? 0 : role.ready ? 2 : 1;
}

/** Trouble first, then by region, role and id. */
export function byTrouble(roles: RoleInfo[]): RoleInfo[] {
  const key = (role: RoleInfo) => `${role.region}/${role.role}/${role.id}`;
  return [...roles].sort((a, b) => rank(a) - rank(b) || key(a).localeCompare(key(b)));
}

export function RoleList({ roles }: { roles: RoleInfo[] }) {
  const now = useNow();
  return (
    <Panel title={`Roles (${roles.length})`} flush>
      <ul aria-label="Roles" className="max-h-[32rem] overflow-y-auto">
        {byTrouble(roles).map((role) => (
          <li
            key={`${role.region}/${role.role}/${role.id}`}
            className="border-b border-line last:border-0"
          >
            <details className="group">
              <summary className="flex min-h-9 cursor-pointer flex-wrap items-center gap-x-3 gap-y-0.5 px-4 py-1.5 text-sm hover:bg-surface-2">
                <State role={role} />
                <span className="w-28 shrink-0">{humanize(role.role)}</span>
                <span className="flex min-w-0 flex-1 items-center gap-x-3 max-sm:basis-full max-sm:pl-6">
                  <span className="min-w-0 truncate font-mono text-xs">{role.id}</span>
                  <span className="text-xs text-muted">{role.region}</span>
                  <span className="ml-auto shrink-0 text-xs text-muted tabular">
                    {role.gone ? (
                      <>
                        last heard <RelativeTime at={role.seen_at} />
                      </>
                    ) : (
                      `${role.version}, up ${duration((now - (millis(role.started_at) ?? now)) / 1000)}`
                    )}
                  </span>
                </span>
                {role.message !== "" && (
                  <span className="basis-full pl-6 text-xs text-muted">{role.message}</span>
                )}
              </summary>
              <div className="px-4 pb-3 pl-10">
                <Gauges role={role} />
              </div>
            </details>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

function State({ role }: { role: RoleInfo }) {
  const Icon = role.gone ? CircleX : role.ready ? CircleCheck : TriangleAlert;
  const color = role.gone ? "text-critical" : role.ready ? "text-online" : "text-warning";
  const label = role.gone ? "Gone" : role.ready ? "Ready" : "Not ready";
  return (
    <span className="inline-flex w-24 shrink-0 items-center gap-1.5 text-xs">
      <Icon size={14} className={color} aria-hidden />
      {label}
    </span>
  );
}
