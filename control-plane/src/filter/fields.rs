//! The fields that a filter can name: those of a device in a list, with their types and operators.

use serde::Serialize;

/// A field of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    Hostname,
    DisplayName,
    Status,
    Health,
    OsType,
    OsVersion,
    Architecture,
    AgentVersion,
    Organization,
    Site,
    Tag,
    LastUser,
    PendingReboot,
    PublicIp,
    PrimaryIp,
    CpuPercent,
    RamPercent,
    DiskPercent,
    UptimeS,
    CpuModel,
    CpuThreads,
    RamGb,
    DiskGb,
    SerialNumber,
    Manufacturer,
    Model,
    LastSeenAt,
    StatusSince,
    EnrolledAt,
}

/// What a field holds, which decides its operators and the form of its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text, compared without regard to case.
    Text,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// A set of words.
    Tags,
    /// A number in the unit named.
    Number(&'static str),
    /// An instant.
    Time,
    Bool,
}

impl Kind {
    /// The operators that fit, as typed.
    #[must_use]
    pub const fn operators(self) -> &'static [&'static str] {
        match self {
            Self::Text => &["=", "!=", "~", "!~", ":", "in", "not in", "is empty", "is not empty"],
            Self::Tags => &[":", "=", "!=", "~", "!~", "in", "not in", "is empty", "is not empty"],
            Self::Choice(_) => &["=", "!=", ":", "in", "not in", "is empty", "is not empty"],
            Self::Number(_) => &["=", "!=", "<", "<=", ">", ">=", "in", "not in", "is empty", "is not empty"],
            Self::Time => &["<", "<=", ">", ">=", "is empty", "is not empty"],
            Self::Bool => &["=", "!=", ":"],
        }
    }

    /// Its name in the field list.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Choice(_) => "choice",
            Self::Tags => "tags",
            Self::Number(_) => "number",
            Self::Time => "time",
            Self::Bool => "boolean",
        }
    }
}

/// A field as the parser knows it.
#[derive(Debug, Clone, Copy)]
pub struct FieldInfo {
    pub field: Field,
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    pub kind: Kind,
    pub description: &'static str,
}

/// What `status` can be.
const STATUSES: &[&str] = &["online", "offline", "pending", "maintenance", "decommissioned"];
/// What `health` can be.
const HEALTHS: &[&str] = &["ok", "warning", "error"];

const fn info(
    field: Field,
    name: &'static str,
    aliases: &'static [&'static str],
    kind: Kind,
    description: &'static str,
) -> FieldInfo {
    FieldInfo { field, name, aliases, kind, description }
}

/// Every field, in the order of [`Field`].
pub const FIELDS: &[FieldInfo] = &[
    info(Field::Hostname, "hostname", &["host"], Kind::Text, "Name the device gives itself"),
    info(Field::DisplayName, "display_name", &["name"], Kind::Text, "Name that people gave it"),
    info(Field::Status, "status", &[], Kind::Choice(STATUSES), "Whether it is connected"),
    info(Field::Health, "health", &[], Kind::Choice(HEALTHS), "What its last heartbeat said of itself"),
    info(Field::OsType, "os_type", &["os"], Kind::Text, "Operating system: linux, windows, macos"),
    info(Field::OsVersion, "os_version", &[], Kind::Text, "Version of the operating system"),
    info(Field::Architecture, "architecture", &["arch"], Kind::Text, "Processor architecture: amd64, arm64"),
    info(Field::AgentVersion, "agent_version", &["agent"], Kind::Text, "Version of its agent"),
    info(Field::Organization, "organization", &["org"], Kind::Text, "Name or id of its organization"),
    info(Field::Site, "site", &[], Kind::Text, "Name or id of its site"),
    info(Field::Tag, "tag", &["tags"], Kind::Tags, "A tag that it carries"),
    info(Field::LastUser, "last_user", &["user"], Kind::Text, "Who was signed in last"),
    info(Field::PendingReboot, "pending_reboot", &[], Kind::Bool, "Whether it waits for a restart"),
    info(Field::PublicIp, "public_ip", &[], Kind::Text, "Address that the relay sees"),
    info(Field::PrimaryIp, "primary_ip", &["ip"], Kind::Text, "Address of its main interface"),
    info(Field::CpuPercent, "cpu_percent", &["cpu"], Kind::Number("percent"), "Processor use, latest"),
    info(Field::RamPercent, "ram_percent", &[], Kind::Number("percent"), "Memory use, latest"),
    info(Field::DiskPercent, "disk_percent", &[], Kind::Number("percent"), "Use of its fullest disk, latest"),
    info(Field::UptimeS, "uptime_s", &["uptime"], Kind::Number("seconds"), "Time since it started, such as 3d"),
    info(Field::CpuModel, "cpu_model", &[], Kind::Text, "Processor"),
    info(Field::CpuThreads, "cpu_threads", &["threads"], Kind::Number("threads"), "Logical processors"),
    info(Field::RamGb, "ram_gb", &["ram"], Kind::Number("GiB"), "Memory fitted"),
    info(Field::DiskGb, "disk_gb", &["disk"], Kind::Number("GiB"), "Size of its disks together"),
    info(Field::SerialNumber, "serial_number", &["serial"], Kind::Text, "Serial number"),
    info(Field::Manufacturer, "manufacturer", &[], Kind::Text, "Who made it"),
    info(Field::Model, "model", &[], Kind::Text, "What its maker calls it"),
    info(Field::LastSeenAt, "last_seen_at", &["last_seen"], Kind::Time, "Its last heartbeat"),
    info(Field::StatusSince, "status_since", &[], Kind::Time, "Since when its status holds"),
    info(Field::EnrolledAt, "enrolled_at", &["enrolled"], Kind::Time, "When it was enrolled"),
];

impl Field {
    /// The field of that name or alias, in any case.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static FieldInfo> {
        FIELDS.iter().find(|info| {
            info.name.eq_ignore_ascii_case(name) || info.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
        })
    }

    #[must_use]
    pub fn info(self) -> &'static FieldInfo {
        &FIELDS[self as usize]
    }

    /// As it is printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.info().name
    }

    #[must_use]
    pub fn kind(self) -> Kind {
        self.info().kind
    }
}

/// A field as a filter bar needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct FieldDescription {
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    /// "text", "choice", "tags", "number", "time" or "boolean".
    pub r#type: &'static str,
    pub description: &'static str,
    pub operators: &'static [&'static str],
    /// Of a choice: what it can be.
    pub values: &'static [&'static str],
    /// Of a number.
    pub unit: Option<&'static str>,
}

/// Every field, for a filter bar.
#[must_use]
pub fn describe() -> Vec<FieldDescription> {
    FIELDS
        .iter()
        .map(|info| FieldDescription {
            name: info.name,
            aliases: info.aliases,
            r#type: info.kind.name(),
            description: info.description,
            operators: info.kind.operators(),
            values: match info.kind {
                Kind::Choice(values) => values,
                Kind::Bool => &["true", "false"],
                Kind::Text | Kind::Tags | Kind::Number(_) | Kind::Time => &[],
            },
            unit: match info.kind {
                Kind::Number(unit) => Some(unit),
                Kind::Text | Kind::Tags | Kind::Choice(_) | Kind::Time | Kind::Bool => None,
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum_and_names_are_unique() {
        let mut names: Vec<&str> = Vec::new();
        for (index, info) in FIELDS.iter().enumerate() {
            assert_eq!(info.field as usize, index, "{}", info.name);
            names.push(info.name);
            names.extend(info.aliases);
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
