//! Inventory as it is answered: the sections that the device reported last, and what they were before.

pub mod difference;
pub mod history;

use crate::{api::Timestamp, context::App, error::ApiError};
use axum::http::StatusCode;
use breeze_proto::{
    id::DeviceId,
    v1::{self, InventorySection, StoredSection},
};
use breeze_store::model::{device_state, inventory};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a device is made of. Empty texts and zeros are what it could not find out.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Hardware {
    pub cpu_model: String,
    pub cpu_cores: u32,
    pub cpu_threads: u32,
    /// MiB.
    pub ram_total_mb: u64,
    /// GiB.
    pub disk_total_gb: u64,
    pub gpu_model: String,
    pub serial_number: String,
    pub manufacturer: String,
    pub model: String,
    pub bios_version: String,
    /// "kvm", "docker" and the like; empty on bare metal.
    pub virtualization: String,
    pub disks: Vec<Disk>,
    pub updated_at: Timestamp,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Disk {
    pub mount: String,
    pub device: String,
    pub file_system: String,
    pub total_bytes: u64,
    pub removable: bool,
}

/// A device's addresses.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Network {
    pub addresses: Vec<Address>,
    pub dns_servers: Vec<String>,
    #[schema(required)]
    pub default_gateway: Option<String>,
    /// As the relay sees it.
    #[schema(required)]
    pub public_ip: Option<String>,
    pub updated_at: Timestamp,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Address {
    pub interface_name: String,
    pub mac_address: String,
    pub ip_address: String,
    pub prefix_len: u32,
    /// "ipv4" or "ipv6".
    pub ip_type: &'static str,
    pub is_primary: bool,
}

/// One installed piece of software.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Software {
    pub name: String,
    pub version: String,
    pub publisher: String,
    /// "2026-11-24", or empty.
    pub install_date: String,
    pub install_location: String,
    pub is_system: bool,
    /// "dpkg", "rpm", "apk", "snap" or "flatpak".
    pub source: String,
    pub architecture: String,
}

/// A place in a software list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SoftwarePosition {
    pub name: String,
    pub source: String,
    pub architecture: String,
}

/// A page of software.
#[derive(Debug)]
pub struct SoftwarePage {
    pub data: Vec<Software>,
    pub total: u64,
    pub next: Option<SoftwarePosition>,
}

async fn section(app: &App, device: DeviceId, section: InventorySection) -> Result<StoredSection, ApiError> {
    match inventory::section(&*app.state, device, section).await? {
        Some((_, stored)) => Ok(stored),
        None => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "not_reported",
            "Not reported yet",
            "The device has not reported this yet. It does so when it first connects.",
        )),
    }
}

/// # Errors
/// `not_reported`, and the store's.
pub async fn hardware(app: &App, device: DeviceId) -> Result<Hardware, ApiError> {
    section(app, device, InventorySection::Hardware).await.map(hardware_of)
}

fn hardware_of(stored: StoredSection) -> Hardware {
    let hardware = stored.hardware.unwrap_or_default();
    let disk = |disk: v1::Disk| Disk {
        mount: disk.mount,
        device: disk.device,
        file_system: disk.file_system,
        total_bytes: disk.total_bytes,
        removable: disk.removable,
    };
    Hardware {
        cpu_model: hardware.cpu_model,
        cpu_cores: hardware.cpu_cores,
        cpu_threads: hardware.cpu_threads,
        ram_total_mb: hardware.ram_total_mib,
        disk_total_gb: hardware.disk_total_gib,
        gpu_model: hardware.gpu_model,
        serial_number: hardware.serial_number,
        manufacturer: hardware.manufacturer,
        model: hardware.model,
        bios_version: hardware.bios_version,
        virtualization: hardware.virtualization,
        disks: hardware.disks.into_iter().map(disk).collect(),
        updated_at: Timestamp::from_us(stored.received_us),
    }
}

/// # Errors
/// `not_reported`, and the store's.
pub async fn network(app: &App, device: DeviceId) -> Result<Network, ApiError> {
    let stored = section(app, device, InventorySection::Network).await?;
    let facts = device_state::facts(&*app.state, device).await?.map(|(_, facts)| facts).unwrap_or_default();
    Ok(network_of(stored, Some(facts.public_ip).filter(|ip| !ip.is_empty())))
}

fn network_of(stored: StoredSection, public_ip: Option<String>) -> Network {
    let network = stored.network.unwrap_or_default();
    let address = |address: v1::NetworkAddress| Address {
        interface_name: address.interface_name,
        mac_address: address.mac_address,
        ip_address: address.ip_address,
        prefix_len: address.prefix_len,
        ip_type: if address.is_ipv6 { "ipv6" } else { "ipv4" },
        is_primary: address.is_primary,
    };
    Network {
        addresses: network.addresses.into_iter().map(address).collect(),
        dns_servers: network.dns_servers,
        default_gateway: Some(network.default_gateway).filter(|gateway| !gateway.is_empty()),
        public_ip,
        updated_at: Timestamp::from_us(stored.received_us),
    }
}

/// Software whose name or publisher contains `search`, by name, behind `after`.
///
/// # Errors
/// `not_reported`, and the store's.
pub async fn software(
    app: &App,
    device: DeviceId,
    search: &str,
    after: Option<&SoftwarePosition>,
    limit: usize,
) -> Result<SoftwarePage, ApiError> {
    let stored = section(app, device, InventorySection::Software).await?;
    Ok(software_page(stored.software, search, after, limit))
}

fn software_page(
    software: Vec<v1::Software>,
    search: &str,
    after: Option<&SoftwarePosition>,
    limit: usize,
) -> SoftwarePage {
    let search = search.to_lowercase();
    let found = |software: &v1::Software| {
        let name = software.key.as_ref().map_or("", |key| key.name.as_str());
        search.is_empty()
            || name.to_lowercase().contains(&search)
            || software.publisher.to_lowercase().contains(&search)
    };
    let mut all: Vec<(SoftwarePosition, v1::Software)> =
        software.into_iter().filter(found).map(|software| (position(&software), software)).collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    let total = all.len() as u64;
    let start = after.map_or(0, |after| all.partition_point(|(position, _)| position <= after));
    let end = start.saturating_add(limit).min(all.len());
    let next = (end < all.len()).then(|| all[end - 1].0.clone());
    let data = all.drain(start..end).map(|(_, software)| shown(software)).collect();
    SoftwarePage { data, total, next }
}

fn position(software: &v1::Software) -> SoftwarePosition {
    let key = software.key.clone().unwrap_or_default();
    SoftwarePosition { name: key.name.to_lowercase(), source: key.source, architecture: key.architecture }
}

fn shown(software: v1::Software) -> Software {
    let key = software.key.unwrap_or_default();
    Software {
        name: key.name,
        version: software.version,
        publisher: software.publisher,
        install_date: software.install_date,
        install_location: software.install_location,
        is_system: software.is_system,
        source: key.source,
        architecture: key.architecture,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_is_paged_by_name_and_found_by_publisher() {
        let software = |name: &str, publisher: &str, architecture: &str| v1::Software {
            key: Some(v1::SoftwareKey { source: "dpkg".into(), name: name.into(), architecture: architecture.into() }),
            publisher: publisher.into(),
            ..v1::Software::default()
        };
        let all = vec![
            software("zlib", "Mark", "amd64"),
            software("Bash", "GNU", "amd64"),
            software("libc6", "GNU", "i386"),
            software("libc6", "GNU", "amd64"),
        ];
        let names = |page: &SoftwarePage| -> Vec<String> {
            page.data.iter().map(|software| format!("{} {}", software.name, software.architecture)).collect()
        };
        let first = software_page(all.clone(), "", None, 2);
        assert_eq!((names(&first), first.total), (vec!["Bash amd64".into(), "libc6 amd64".into()], 4));
        let second = software_page(all.clone(), "", first.next.as_ref(), 2);
        assert_eq!((names(&second), second.next), (vec!["libc6 i386".into(), "zlib amd64".into()], None));
        assert_eq!(software_page(all.clone(), "gnu", None, 10).total, 3);
        assert_eq!(software_page(all, "ZLIB", None, 10).total, 1);
    }
}
