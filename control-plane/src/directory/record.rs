//! What the directory takes in: one record a source, in the directory's own terms.

use breeze_proto::{
    id::{DeviceId, OrgId, SiteId},
    v1::{DeviceFacts, HostFacts},
};
use breeze_store::model::device::{DeviceConfig, Standing};

/// What people decided about a device that takes part.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigRecord {
    pub organization: OrgId,
    pub site: SiteId,
    pub display_name: Option<String>,
    pub tags: Vec<String>,
    pub enrolled_at_ms: u64,
    /// What it said when it enrolled: shown until it reports itself.
    pub enrolled: DeviceFacts,
}

impl ConfigRecord {
    /// `None` for a device that is in no list: one that waits, was refused or is decommissioned.
    #[must_use]
    pub fn of(device: DeviceConfig) -> Option<Self> {
        match device.standing {
            Standing::Active => {}
            Standing::Pending | Standing::Rejected | Standing::Decommissioned => return None,
        }
        let host = HostFacts {
            hostname: device.enrolled.hostname,
            os_type: device.enrolled.os_type,
            os_version: device.enrolled.os_version,
            os_build: device.enrolled.os_build,
            architecture: device.enrolled.architecture,
            ..HostFacts::default()
        };
        Some(Self {
            organization: device.org_id,
            site: device.site_id,
            display_name: device.display_name,
            tags: device.tags,
            enrolled_at_ms: device.enrolled_ms,
            enrolled: DeviceFacts {
                host: Some(host),
                agent_version: device.enrolled.agent_version,
                serial_number: device.enrolled.serial_number,
                ..DeviceFacts::default()
            },
        })
    }
}

/// How a listed device is connected. The order is the order when sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Status {
    Online,
    Offline,
    /// Enrolled, and never heard of since.
    Pending,
}

impl Status {
    pub const ALL: [Self; 3] = [Self::Online, Self::Offline, Self::Pending];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Pending => "pending",
        }
    }
}

/// What a device said of itself in its last heartbeat; 0 is nothing yet.
pub(super) const HEALTH_NAMES: [&str; 4] = ["", "ok", "warning", "error"];

/// One device and one of its sources, at a version.
#[derive(Debug, Clone)]
pub struct Change<T> {
    pub device: DeviceId,
    pub version: u64,
    /// `None`: gone, or not to be listed.
    pub record: Option<T>,
}
