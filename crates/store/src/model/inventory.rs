//! Inventory sections of a device, as its region's collector stored them.

use crate::state::{Family, MAX_VALUE_BYTES, Merge, MergeTable, State, StateError};
use breeze_proto::{
    id::DeviceId,
    v1::{InventorySection, StoredSection},
};
use bytes::Bytes;
use prost::Message;

/// Partition: the device's id, 16 bytes.
pub const INVENTORY: MergeTable = MergeTable::new("inventory", Family::Device);

/// The row key of a section; `None` for an unknown one.
#[must_use]
pub const fn key(section: InventorySection) -> Option<&'static str> {
    match section {
        InventorySection::Unspecified => None,
        InventorySection::Hardware => Some("hardware"),
        InventorySection::Network => Some("network"),
        InventorySection::Software => Some("software"),
    }
}

/// The row of a section; `None` if the section is unknown or too large to be stored.
#[must_use]
pub fn section_row(device: DeviceId, version: u64, section: &StoredSection) -> Option<Merge> {
    let key = key(section.section())?;
    let value = section.encode_to_vec();
    (value.len() <= MAX_VALUE_BYTES).then(|| Merge {
        table: INVENTORY,
        partition: Bytes::copy_from_slice(&device.to_bytes()),
        key: Bytes::from_static(key.as_bytes()),
        version,
        value: Some(value.into()),
    })
}

/// A section with its row's version.
///
/// # Errors
/// Of the state; [`StateError::Corrupt`] for a row that does not decode.
pub async fn section(
    state: &dyn State,
    device: DeviceId,
    section: InventorySection,
) -> Result<Option<(u64, StoredSection)>, StateError> {
    let Some(key) = key(section) else { return Ok(None) };
    let row = state.get(INVENTORY.into(), &device.to_bytes(), key.as_bytes()).await?;
    row.map(|row| {
        let section = StoredSection::decode(row.value.clone())
            .map_err(|error| StateError::Corrupt(format!("inventory section {key}: {error}")))?;
        Ok((row.version, section))
    })
    .transpose()
}
