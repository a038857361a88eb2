// Interfaces and addresses; a click copies one.
import { useQuery } from "@tanstack/react-query";
import { CopyText } from "@/components/ui/copy";
import { Facts, Panel } from "@/components/ui/panel";
import { Inventory } from "@/features/device/components/inventory-state";
import { networkQuery } from "@/features/device/queries";
import type { Network } from "@/lib/api/types";

type Address = Network["addresses"][number];

export function byInterface(
  addresses: readonly Address[],
): { name: string; mac: string | null; addresses: Address[] }[] {
  const groups = new Map<string, { name: string; mac: string | null; addresses: Address[] }>();
  for (const address of addresses) {
    const group = groups.get(address.interface_name) ?? {
      name: address.interface_name,
      mac: null,
      addresses: [],
    };
    if (address.mac_address !== "") group.mac ??= address.mac_address;
    // An interface without an address is reported once, with an empty one.
    if (address.ip_address !== "") group.addresses.push(address);
    groups.set(address.interface_name, group);
  }
  const rank = (group: { addresses: Address[] }) =>
    group.addresses.some((address) => address.is_primary) ? 0 : 1;
  return [...groups.values()].sort((a, b) => rank(a) - rank(b));
}

const copyable = (value: string | null | undefined) =>
  value == null || value === "" ? "–" : <CopyText value={value} />;

export function NetworkTab({ id }: { id: string }) {
  const query = useQuery(networkQuery(id));
  return (
    <Inventory query={query} what="network" rows={6}>
      {(network) => (
        <>
          <Panel title="Reach">
            <Facts
              items={[
                ["Public address", copyable(network.public_ip)],
                ["Gateway", copyable(network.default_gateway)],
                [
                  "DNS servers",
                  network.dns_servers.length === 0 ? (
                    "–"
                  ) : (
                    <span className="flex flex-wrap gap-x-3">
                      {network.dns_servers.map((server) => (
                        <CopyText key={server} value={server} />
                      ))}
                    </span>
                  ),
                ],
              ]}
            />
          </Panel>
          <div className="grid gap-4 lg:grid-cols-2">
            {byInterface(network.addresses).map((group) => (
              <Panel
                key={group.name}
                title={<span className="font-mono">{group.name}</span>}
                actions={
                  group.mac === null ? undefined : (
                    <CopyText value={group.mac} className="text-muted" />
                  )
                }
              >
                {group.addresses.length === 0 && <p className="text-sm text-muted">No address.</p>}
                <ul className="flex flex-col gap-1.5">
                  {group.addresses.map((address) => (
                    <li
                      key={address.ip_address}
                      className="flex flex-wrap items-center gap-x-2 text-sm"
                    >
                      <CopyText value={address.ip_address} />
                      <span className="font-mono text-xs text-faint">/{address.prefix_len}</span>
                      {address.is_primary && (
                        <span className="rounded bg-accent-soft px-1.5 text-2xs font-medium text-accent-ink">
                          Main
                        </span>
                      )}
                    </li>
                  ))}
                </ul>
              </Panel>
            ))}
          </div>
        </>
      )}
    </Inventory>
  );
}
