//! A device as lists show it.

use crate::api::time::Timestamp;
use breeze_proto::id::DeviceId;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;
use uuid::Uuid;

/// A device in a list. Latest figures are a few seconds old.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DeviceSummary {
    #[schema(value_type = Uuid)]
    pub id: DeviceId,
    /// As the device names itself; empty until it first connected.
    pub hostname: String,
    #[schema(required)]
    pub display_name: Option<String>,
    /// "linux", "windows" or "macos"; empty until it first connected.
    pub os_type: String,
    pub os_version: String,
    pub architecture: String,
    pub agent_version: String,
    /// "online", "offline", "pending" (never heard of), "maintenance" or "decommissioned".
    #[schema(value_type = DeviceStatus)]
    pub status: &'static str,
    #[schema(required)]
    pub last_seen_at: Option<Timestamp>,
    /// Since when the status holds.
    #[schema(required)]
    pub status_since: Option<Timestamp>,
    pub enrolled_at: Timestamp,
    pub organization: Reference,
    pub site: Reference,
    pub tags: Vec<String>,
    #[schema(required)]
    pub last_user: Option<String>,
    #[schema(value_type = Option<DeviceHealth>, required)]
    pub health: Option<&'static str>,
    pub pending_reboot: bool,
    /// As the relay sees it.
    #[schema(required)]
    pub public_ip: Option<String>,
    #[schema(required)]
    pub primary_ip: Option<String>,
    #[schema(required)]
    pub cpu_percent: Option<f64>,
    #[schema(required)]
    pub ram_percent: Option<f64>,
    /// Of its fullest disk.
    #[schema(required)]
    pub disk_percent: Option<f64>,
    #[schema(required)]
    pub uptime_s: Option<u64>,
    #[schema(required)]
    pub cpu_model: Option<String>,
    #[schema(required)]
    pub cpu_threads: Option<u32>,
    /// GiB.
    #[schema(required)]
    pub ram_gb: Option<f64>,
    /// GiB.
    #[schema(required)]
    pub disk_gb: Option<u64>,
    #[schema(required)]
    pub serial_number: Option<String>,
    #[schema(required)]
    pub manufacturer: Option<String>,
    #[schema(required)]
    pub model: Option<String>,
}

/// What of a device changes with each heartbeat. A change of status or health is told with the whole
/// device.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DeviceFigures {
    #[schema(value_type = Uuid)]
    pub id: DeviceId,
    pub last_seen_at: Option<Timestamp>,
    pub last_user: Option<String>,
    pub cpu_percent: Option<f64>,
    pub ram_percent: Option<f64>,
    pub disk_percent: Option<f64>,
    pub uptime_s: Option<u64>,
}

impl From<DeviceSummary> for DeviceFigures {
    fn from(device: DeviceSummary) -> Self {
        Self {
            id: device.id,
            last_seen_at: device.last_seen_at,
            last_user: device.last_user,
            cpu_percent: device.cpu_percent,
            ram_percent: device.ram_percent,
            disk_percent: device.disk_percent,
            uptime_s: device.uptime_s,
        }
    }
}

/// How a device is connected.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeviceStatus {
    Online,
    Offline,
    Pending,
    Maintenance,
    Decommissioned,
}

/// What a device says of itself.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeviceHealth {
    Ok,
    Warning,
    Error,
}

/// Another entity, by id and name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Reference {
    pub id: Uuid,
    pub name: String,
}

/// How many of the devices that a list is of have which value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Facets {
    pub status: BTreeMap<String, u64>,
    pub os_type: BTreeMap<String, u64>,
    pub health: BTreeMap<String, u64>,
    /// The most frequent ones.
    pub tags: BTreeMap<String, u64>,
}
