// The fields that the filter language knows, for completion and for the help under the bar.

export interface FilterField {
  name: string;
  kind: "text" | "choice" | "number" | "time" | "boolean" | "tags";
  hint: string;
  values?: readonly string[];
}

export const FILTER_FIELDS: readonly FilterField[] = [
  { name: "hostname", kind: "text", hint: "Name the device gives itself" },
  { name: "display_name", kind: "text", hint: "Name that people gave it" },
  {
    name: "status",
    kind: "choice",
    hint: "Whether it is connected",
    values: ["online", "offline", "pending", "maintenance", "decommissioned"],
  },
  {
    name: "health",
    kind: "choice",
    hint: "What it last said of itself",
    values: ["ok", "warning", "error"],
  },
  { name: "os", kind: "text", hint: "Operating system", values: ["linux", "windows", "macos"] },
  { name: "os_version", kind: "text", hint: "Version of the system" },
  { name: "architecture", kind: "text", hint: "Processor architecture" },
  { name: "agent_version", kind: "text", hint: "Version of its agent" },
  { name: "site", kind: "text", hint: "Name of its site" },
  { name: "tag", kind: "tags", hint: "A tag it carries" },
  { name: "last_user", kind: "text", hint: "Who was signed in last" },
  {
    name: "pending_reboot",
    kind: "boolean",
    hint: "Waits for a restart",
    values: ["true", "false"],
  },
  { name: "public_ip", kind: "text", hint: "Address that the relay sees" },
  { name: "primary_ip", kind: "text", hint: "Address of its main interface" },
  { name: "cpu_percent", kind: "number", hint: "Processor use now" },
  { name: "ram_percent", kind: "number", hint: "Memory use now" },
  { name: "disk_percent", kind: "number", hint: "Use of its fullest disk" },
  { name: "uptime_s", kind: "number", hint: "Time since it started, such as 3d" },
  { name: "cpu_model", kind: "text", hint: "Processor" },
  { name: "cpu_threads", kind: "number", hint: "Logical processors" },
  { name: "ram_gb", kind: "number", hint: "Memory fitted, in GiB" },
  { name: "disk_gb", kind: "number", hint: "Size of its disks, in GiB" },
  { name: "serial_number", kind: "text", hint: "Serial number" },
  { name: "manufacturer", kind: "text", hint: "Who made it" },
  { name: "model", kind: "text", hint: "What its maker calls it" },
  { name: "last_seen_at", kind: "time", hint: "Its last heartbeat, such as < -1h" },
  { name: "enrolled_at", kind: "time", hint: "When it was enrolled" },
];
