// What the machine is made of.
import { useQuery } from "@tanstack/react-query";
import { CopyText } from "@/components/ui/copy";
import { Facts, Panel } from "@/components/ui/panel";
import { Inventory } from "@/features/device/components/inventory-state";
import { hardwareQuery } from "@/features/device/queries";
import type { Hardware } from "@/lib/api/types";
import { known } from "@/lib/format/labels";
import { bytes, count, plural } from "@/lib/format/numbers";

export function HardwareTab({ id }: { id: string }) {
  const query = useQuery(hardwareQuery(id));
  return (
    <Inventory query={query} what="hardware" rows={10}>
      {(hardware) => (
        <>
          <div className="grid gap-4 lg:grid-cols-2">
            <Panel title="Machine">
              <Facts
                items={[
                  ["Made by", known(hardware.manufacturer)],
                  ["Model", known(hardware.model)],
                  [
                    "Serial number",
                    hardware.serial_number === "" ? (
                      "–"
                    ) : (
                      <CopyText key="sn" value={hardware.serial_number} />
                    ),
                  ],
                  ["Firmware", known(hardware.bios_version)],
                  [
                    "Virtual machine",
                    hardware.virtualization === "" ? "No" : hardware.virtualization,
                  ],
                ]}
              />
            </Panel>
            <Panel title="Processor and memory">
              <Facts
                items={[
                  ["Processor", known(hardware.cpu_model)],
                  ["Cores", cores(hardware)],
                  ["Memory", size(hardware.ram_total_mb * 1024 ** 2)],
                  ["Graphics", known(hardware.gpu_model)],
                  ["Disks together", size(hardware.disk_total_gb * 1024 ** 3)],
                ]}
              />
            </Panel>
          </div>
          <Disks disks={hardware.disks} />
        </>
      )}
    </Inventory>
  );
}

/** What an agent does not know it reports as nothing: zero. */
function size(value: number): string {
  return value > 0 ? bytes(value) : "–";
}

function cores(hardware: Hardware): string {
  const parts = [
    hardware.cpu_cores > 0 ? plural(hardware.cpu_cores, "core") : "",
    hardware.cpu_threads > 0 ? plural(hardware.cpu_threads, "thread") : "",
  ];
  return known(parts.filter((part) => part !== "").join(", "));
}

function Disks({ disks }: { disks: Hardware["disks"] }) {
  return (
    <Panel title={`File systems (${count(disks.length)})`} flush>
      <div className="overflow-x-auto">
        <table className="w-full min-w-[560px] text-sm">
          <thead>
            <tr className="border-b border-line text-left text-xs text-muted">
              {["Mounted at", "Device", "File system", "Size", ""].map((head, i) => (
                <th
                  key={head}
                  scope="col"
                  className={`px-2 py-2 font-medium first:pl-4 ${i === 3 ? "text-right" : ""}`}
                >
                  {head === "" ? <span className="sr-only">Kind</span> : head}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {disks.map((disk) => (
              <tr key={disk.device + disk.mount} className="h-9 border-b border-line last:border-0">
                <td className="px-2 pl-4 font-mono text-xs">{disk.mount}</td>
                <td className="px-2 font-mono text-xs text-muted">{disk.device}</td>
                <td className="px-2">{disk.file_system}</td>
                <td className="px-2 text-right whitespace-nowrap tabular">
                  {bytes(disk.total_bytes)}
                </td>
                <td className="px-2 text-muted">{disk.removable ? "Removable" : ""}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Panel>
  );
}
