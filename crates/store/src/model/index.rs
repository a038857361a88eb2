//! Lists. A list is rows of one merge table that point at records; they are written through the
//! outbox of the record's own commit, so they follow it and cannot contradict it for long. The
//! version of a list's row is that of the record's partition: late or repeated deliveries are
//! harmless.

use super::error::ModelError;
use crate::state::{Family, MAX_PAGE_ROWS, Merge, MergeTable, OutboxItem, Row, Scan, State, Table};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The table of all lists.
pub const INDEX: MergeTable = MergeTable::new("index", Family::Config);
/// Outbox topic of [`IndexWrite`]s.
pub const TOPIC: &str = "index";

/// One row of one list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexWrite {
    /// Names the list: "org/<id>/sites".
    pub list: String,
    /// Orders the list and names the row in it.
    pub key: String,
    /// What the row says; `None` takes it off the list.
    pub value: Option<String>,
}

impl IndexWrite {
    #[must_use]
    pub fn put(list: impl Into<String>, key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { list: list.into(), key: key.into(), value: Some(value.into()) }
    }

    #[must_use]
    pub fn remove(list: impl Into<String>, key: impl Into<String>) -> Self {
        Self { list: list.into(), key: key.into(), value: None }
    }
}

/// The outbox item that makes these writes.
#[must_use]
pub fn item(writes: &[IndexWrite]) -> OutboxItem {
    OutboxItem { topic: TOPIC, payload: super::record::encode(&writes) }
}

/// Applies an item that was committed with `version`.
///
/// # Errors
/// [`ModelError::Corrupt`] for a payload that is none, and the store's.
pub async fn apply(state: &dyn State, version: u64, payload: &[u8]) -> Result<(), ModelError> {
    let writes: Vec<IndexWrite> = super::record::decode(payload)?;
    let merges = writes
        .into_iter()
        .map(|write| Merge {
            table: INDEX,
            partition: write.list.into(),
            key: write.key.into(),
            version,
            value: write.value.map(Bytes::from),
        })
        .collect();
    Ok(state.merge(merges).await?)
}

/// Rows of a list after `after` (exclusive), in the order of keys or backwards.
///
/// # Errors
/// The store's.
pub async fn page(
    state: &dyn State,
    list: &str,
    after: Option<&str>,
    reverse: bool,
    limit: usize,
) -> Result<Vec<Row>, ModelError> {
    let mut scan = Scan { limit, reverse, ..Scan::default() };
    match (after, reverse) {
        (None, _) => {}
        (Some(after), false) => {
            // The smallest key above `after`.
            let mut from = after.as_bytes().to_vec();
            from.push(0);
            scan.from = from.into();
        }
        (Some(after), true) => scan.to = Some(Bytes::copy_from_slice(after.as_bytes())),
    }
    let mut rows: Vec<Row> = Vec::new();
    loop {
        scan.limit = limit.saturating_sub(rows.len());
        if scan.limit == 0 {
            return Ok(rows);
        }
        let page = state.scan(Table::Merge(INDEX), list.as_bytes(), scan.clone()).await?;
        rows.extend(page.rows);
        match page.next {
            None => return Ok(rows),
            Some(next) if reverse => scan.to = Some(next),
            Some(next) => scan.from = next,
        }
    }
}

/// Rows of a whole list. For lists that a tenant keeps by hand, which are short.
///
/// # Errors
/// The store's.
pub async fn count(state: &dyn State, list: &str) -> Result<u64, ModelError> {
    let mut scan = Scan::default().limit(MAX_PAGE_ROWS);
    let mut rows = 0;
    loop {
        let page = state.scan(Table::Merge(INDEX), list.as_bytes(), scan.clone()).await?;
        rows += page.rows.len() as u64;
        match page.next {
            None => return Ok(rows),
            Some(next) => scan.from = next,
        }
    }
}
