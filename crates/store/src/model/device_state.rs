//! What the region's collector knows of a device: rarely changing facts and the newest values.
//! Written by the lane's owner only, whole rows, the highest version wins.
//!
//! A version is the lane's epoch and a counter within it: the owner of a later epoch wins over every
//! write of an earlier one, whenever that arrives.

use crate::state::{Family, MAX_PAGE_ROWS, Merge, MergeTable, Row, State, StateError};
use breeze_proto::{
    id::DeviceId,
    v1::{DeviceFacts, DeviceLatest},
};
use bytes::Bytes;
use prost::Message;

/// Partition: the device's id, 16 bytes.
pub const DEVICE_STATE: MergeTable = MergeTable::new("device_state", Family::Device);
/// Key of the [`DeviceFacts`].
pub const FACTS: &[u8] = b"facts";
/// Key of the [`DeviceLatest`].
pub const LATEST: &[u8] = b"latest";

/// Bits of a version below the epoch.
const COUNTER_BITS: u32 = 40;

/// The version of a row written in `epoch` as the `counter`th.
#[must_use]
pub const fn version(epoch: u64, counter: u64) -> u64 {
    (epoch << COUNTER_BITS) | (counter & ((1 << COUNTER_BITS) - 1))
}

/// The row that says what is new of a device.
#[must_use]
pub fn latest_row(device: DeviceId, version: u64, latest: &DeviceLatest) -> Merge {
    row(device, LATEST, version, latest)
}

/// The row of a device's facts.
#[must_use]
pub fn facts_row(device: DeviceId, version: u64, facts: &DeviceFacts) -> Merge {
    row(device, FACTS, version, facts)
}

fn row(device: DeviceId, key: &'static [u8], version: u64, value: &impl Message) -> Merge {
    Merge {
        table: DEVICE_STATE,
        partition: Bytes::copy_from_slice(&device.to_bytes()),
        key: Bytes::from_static(key),
        version,
        value: Some(value.encode_to_vec().into()),
    }
}

/// A device's facts with the row's version.
///
/// # Errors
/// Of the state; [`StateError::Corrupt`] for a row that does not decode.
pub async fn facts(state: &dyn State, device: DeviceId) -> Result<Option<(u64, DeviceFacts)>, StateError> {
    read(state, device, FACTS).await
}

/// A device's newest values with the row's version. They lag the device by what the collector
/// coalesces; the digests do not.
///
/// # Errors
/// As [`facts`].
pub async fn latest(state: &dyn State, device: DeviceId) -> Result<Option<(u64, DeviceLatest)>, StateError> {
    read(state, device, LATEST).await
}

async fn read<M: Message + Default>(
    state: &dyn State,
    device: DeviceId,
    key: &[u8],
) -> Result<Option<(u64, M)>, StateError> {
    let row = state.get(DEVICE_STATE.into(), &device.to_bytes(), key).await?;
    row.map(|row| Ok((row.version, decode(&row)?))).transpose()
}

/// What one row of the table is.
#[derive(Debug, Clone, PartialEq)]
pub enum DeviceRow {
    Facts(Box<DeviceFacts>),
    Latest(DeviceLatest),
}

/// A page of all devices' rows in one of [`crate::state::BUCKETS`] buckets, device by device.
#[derive(Debug, Default)]
pub struct DevicePage {
    pub rows: Vec<(DeviceId, DeviceRow)>,
    pub next: Option<Bytes>,
}

/// Reads all devices, bucket by bucket. Rows that do not decode are left out and counted.
///
/// # Errors
/// Of the state.
pub async fn scan(state: &dyn State, bucket: u16, cursor: Option<Bytes>) -> Result<DevicePage, StateError> {
    let page = state.scan_family(DEVICE_STATE.into(), bucket, cursor, MAX_PAGE_ROWS).await?;
    let mut rows = Vec::with_capacity(page.rows.len());
    for (partition, row) in page.rows {
        let decoded = match row.key.as_ref() {
            FACTS => decode(&row).map(|facts| DeviceRow::Facts(Box::new(facts))),
            LATEST => decode(&row).map(DeviceRow::Latest),
            _ => continue,
        };
        match (DeviceId::from_slice(&partition), decoded) {
            (Some(device), Ok(row)) => rows.push((device, row)),
            _ => metrics::counter!("breeze_device_state_malformed_rows_total").increment(1),
        }
    }
    Ok(DevicePage { rows, next: page.next })
}

fn decode<M: Message + Default>(row: &Row) -> Result<M, StateError> {
    M::decode(row.value.clone())
        .map_err(|error| StateError::Corrupt(format!("device state {}: {error}", String::from_utf8_lossy(&row.key))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{MAX_MERGE_VERSION, memory::MemoryState};

    #[test]
    fn a_later_epoch_wins_over_everything_before_and_versions_fit() {
        assert!(version(2, 0) > version(1, u64::MAX));
        assert!(version(7, 8) > version(7, 7));
        assert!(version((1 << 22) - 1, u64::MAX) <= MAX_MERGE_VERSION);
    }

    #[tokio::test]
    async fn rows_come_back_by_device_and_in_scans() {
        let state = MemoryState::new();
        let device = DeviceId::generate();
        let new = DeviceLatest { last_seen_us: 5, ..DeviceLatest::default() };
        let old = DeviceLatest { last_seen_us: 4, ..DeviceLatest::default() };
        let facts_held = DeviceFacts { region: "local".into(), ..DeviceFacts::default() };
        let rows = [(2, &new), (1, &old)].map(|(epoch, latest)| latest_row(device, version(epoch, 1), latest));
        state.merge(rows.into()).await.expect("merges");
        state.merge(vec![facts_row(device, 1, &facts_held)]).await.expect("merges");
        assert_eq!(latest(&state, device).await.expect("reads"), Some((version(2, 1), new.clone())));
        assert_eq!(facts(&state, DeviceId::generate()).await.expect("reads"), None);

        let mut seen = Vec::new();
        for bucket in 0..crate::state::BUCKETS {
            seen.extend(scan(&state, bucket, None).await.expect("scans").rows);
        }
        assert_eq!(seen, [(device, DeviceRow::Facts(Box::new(facts_held))), (device, DeviceRow::Latest(new))]);
    }
}
