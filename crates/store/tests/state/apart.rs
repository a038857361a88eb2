//! A state of a test's own on a database that all tests share: partitions begin with the test's prefix.

use async_trait::async_trait;
use breeze_store::state::{
    Commit, CommitOutcome, CommitTable, FamilyPage, HintPage, Merge, OutboxHint, OutboxPosition, Page, PendingItem,
    Row, Scan, State, StateError, Table,
};
use bytes::Bytes;

#[derive(Debug)]
pub(crate) struct Apart<S> {
    pub(crate) state: S,
    prefix: [u8; 12],
}

impl<S> Apart<S> {
    pub(crate) fn new(state: S) -> Self {
        Self { state, prefix: rand::random() }
    }

    /// The same partitions by another way.
    pub(crate) fn sharing(&self, state: S) -> Self {
        Self { state, prefix: self.prefix }
    }

    /// The partition that it is on the database. An empty one stays what it is: refused.
    pub(crate) fn within(&self, partition: &[u8]) -> Bytes {
        if partition.is_empty() { Bytes::new() } else { [&self.prefix, partition].concat().into() }
    }

    fn own(&self, partition: &Bytes) -> Option<Bytes> {
        partition.starts_with(&self.prefix).then(|| partition.slice(self.prefix.len()..))
    }
}

#[async_trait]
impl<S: State> State for Apart<S> {
    async fn commit(&self, mut commit: Commit) -> Result<CommitOutcome, StateError> {
        commit.partition = self.within(&commit.partition);
        self.state.commit(commit).await
    }

    async fn merge(&self, mut merges: Vec<Merge>) -> Result<(), StateError> {
        for merge in &mut merges {
            merge.partition = self.within(&merge.partition);
        }
        self.state.merge(merges).await
    }

    async fn get(&self, table: Table, partition: &[u8], key: &[u8]) -> Result<Option<Row>, StateError> {
        self.state.get(table, &self.within(partition), key).await
    }

    async fn partition_version(&self, table: CommitTable, partition: &[u8]) -> Result<u64, StateError> {
        self.state.partition_version(table, &self.within(partition)).await
    }

    async fn scan(&self, table: Table, partition: &[u8], scan: Scan) -> Result<Page, StateError> {
        self.state.scan(table, &self.within(partition), scan).await
    }

    async fn scan_family(
        &self,
        table: Table,
        bucket: u16,
        cursor: Option<Bytes>,
        limit: usize,
    ) -> Result<FamilyPage, StateError> {
        let page = self.state.scan_family(table, bucket, cursor, limit).await?;
        let rows = page.rows.into_iter().filter_map(|(partition, row)| Some((self.own(&partition)?, row))).collect();
        Ok(FamilyPage { rows, next: page.next })
    }

    async fn outbox(&self, table: CommitTable, partition: &[u8], limit: usize) -> Result<Vec<PendingItem>, StateError> {
        self.state.outbox(table, &self.within(partition), limit).await
    }

    async fn outbox_delivered(
        &self,
        table: CommitTable,
        partition: &[u8],
        through: OutboxPosition,
    ) -> Result<(), StateError> {
        self.state.outbox_delivered(table, &self.within(partition), through).await
    }

    async fn outbox_hints(&self, cursor: Option<Bytes>, limit: usize) -> Result<HintPage, StateError> {
        let page = self.state.outbox_hints(cursor, limit).await?;
        let own = |hint: OutboxHint| Some(OutboxHint { partition: self.own(&hint.partition)?, ..hint });
        Ok(HintPage { hints: page.hints.into_iter().filter_map(own).collect(), next: page.next })
    }

    async fn outbox_clear_hint(&self, hint: &OutboxHint) -> Result<bool, StateError> {
        let hint = OutboxHint { partition: self.within(&hint.partition), ..hint.clone() };
        self.state.outbox_clear_hint(&hint).await
    }
}
