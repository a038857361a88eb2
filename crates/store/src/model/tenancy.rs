//! Partners, their organizations, and the organizations' sites.

use super::{
    Scope,
    error::ModelError,
    index::{self, IndexWrite},
    record::{self, MAX_ATTEMPTS, Versioned},
};
use crate::state::{Assert, Commit, CommitOutcome, CommitTable, Family, Serial, State};
use breeze_proto::id::{OrgId, PartnerId, SiteId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub const PARTNERS: CommitTable = CommitTable::new("partners", Family::Config, Serial::Local);
pub const ORGANIZATIONS: CommitTable = CommitTable::new("organizations", Family::Config, Serial::Local);
pub const SITES: CommitTable = CommitTable::new("sites", Family::Config, Serial::Local);
const RECORD: &[u8] = b"record";

/// A managed service provider or enterprise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partner {
    pub id: PartnerId,
    pub name: String,
    pub created_ms: u64,
    pub updated_ms: u64,
}

/// A partner's customer, or the partner's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Organization {
    pub id: OrgId,
    pub partner_id: PartnerId,
    pub name: String,
    pub created_ms: u64,
    pub updated_ms: u64,
}

/// A location.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    pub id: SiteId,
    pub org_id: OrgId,
    pub partner_id: PartnerId,
    pub name: String,
    /// IANA name.
    pub timezone: String,
    pub created_ms: u64,
    pub updated_ms: u64,
}

fn organizations_list(partner: PartnerId) -> String {
    format!("partner/{partner}/organizations")
}

fn sites_list(organization: OrgId) -> String {
    format!("org/{organization}/sites")
}

/// Makes a partner, or writes its record anew if `partner` was updated later.
///
/// # Errors
/// The store's.
pub async fn put_partner(state: &dyn State, partner: &Partner) -> Result<(), ModelError> {
    put(state, PARTNERS, &partner.id.to_bytes(), partner, |held| held.updated_ms < partner.updated_ms, vec![]).await
}

/// As [`put_partner`]. The caller delivers the partition's outbox.
///
/// # Errors
/// The store's.
pub async fn put_organization(state: &dyn State, organization: &Organization) -> Result<(), ModelError> {
    let list = organizations_list(organization.partner_id);
    let row = IndexWrite::put(list, organization.id.to_string(), organization.name.clone());
    let is_newer = |held: &Organization| held.updated_ms < organization.updated_ms;
    put(state, ORGANIZATIONS, &organization.id.to_bytes(), organization, is_newer, vec![row]).await
}

/// As [`put_partner`]. The caller delivers the partition's outbox.
///
/// # Errors
/// The store's.
pub async fn put_site(state: &dyn State, site: &Site) -> Result<(), ModelError> {
    let row = IndexWrite::put(sites_list(site.org_id), site.id.to_string(), site.name.clone());
    put(state, SITES, &site.id.to_bytes(), site, |held| held.updated_ms < site.updated_ms, vec![row]).await
}

async fn put<T: Serialize + DeserializeOwned>(
    state: &dyn State,
    table: CommitTable,
    partition: &[u8],
    value: &T,
    is_newer: impl Fn(&T) -> bool,
    rows: Vec<IndexWrite>,
) -> Result<(), ModelError> {
    for _ in 0..MAX_ATTEMPTS {
        let assert = match record::read::<T>(state, table, partition, RECORD).await? {
            None => Assert::Absent(RECORD.into()),
            Some(held) if is_newer(&held.value) => Assert::Version(RECORD.into(), held.version),
            Some(_) => return Ok(()),
        };
        let mut commit = Commit::new(table, partition.to_vec()).assert(assert).put(RECORD, record::encode(value));
        if !rows.is_empty() {
            commit.outbox.push(index::item(&rows));
        }
        if let CommitOutcome::Applied { .. } = state.commit(commit).await? {
            return Ok(());
        }
    }
    Err(record::contended())
}

/// A partner.
///
/// # Errors
/// [`ModelError::NotFound`] also outside the scope.
pub async fn partner(state: &dyn State, scope: &Scope, id: PartnerId) -> Result<Versioned<Partner>, ModelError> {
    record::read::<Partner>(state, PARTNERS, &id.to_bytes(), RECORD)
        .await?
        .filter(|found| scope.allows_partner(found.value.id))
        .ok_or(ModelError::NotFound("partner"))
}

/// An organization.
///
/// # Errors
/// [`ModelError::NotFound`] also outside the scope.
pub async fn organization(state: &dyn State, scope: &Scope, id: OrgId) -> Result<Versioned<Organization>, ModelError> {
    record::read::<Organization>(state, ORGANIZATIONS, &id.to_bytes(), RECORD)
        .await?
        .filter(|found| scope.sees_organization(found.value.id))
        .ok_or(ModelError::NotFound("organization"))
}

/// A site.
///
/// # Errors
/// [`ModelError::NotFound`] also outside the scope.
pub async fn site(state: &dyn State, scope: &Scope, id: SiteId) -> Result<Versioned<Site>, ModelError> {
    record::read::<Site>(state, SITES, &id.to_bytes(), RECORD)
        .await?
        .filter(|found| scope.allows(found.value.org_id, id))
        .ok_or(ModelError::NotFound("site"))
}

/// Ids of a partner's organizations, oldest first. For the authenticator, which makes scopes of them.
///
/// # Errors
/// The store's.
pub async fn organizations_of(state: &dyn State, partner: PartnerId) -> Result<Vec<OrgId>, ModelError> {
    let rows = index::page(state, &organizations_list(partner), None, false, MAX_ORGANIZATIONS).await?;
    Ok(rows.iter().filter_map(|row| std::str::from_utf8(&row.key).ok()?.parse().ok()).collect())
}

/// Organizations of one partner that a scope can name.
pub const MAX_ORGANIZATIONS: usize = 10_000;

/// Sites of an organization after `after`, in the order of their ids (which is that of their making).
///
/// # Errors
/// [`ModelError::NotFound`] outside the scope.
pub async fn sites(
    state: &dyn State,
    scope: &Scope,
    organization: OrgId,
    after: Option<SiteId>,
    limit: usize,
) -> Result<(Vec<Site>, u64), ModelError> {
    if !scope.sees_organization(organization) {
        return Err(ModelError::NotFound("organization"));
    }
    let list = sites_list(organization);
    let after = after.map(|id| id.to_string());
    let mut sites = Vec::new();
    for row in index::page(state, &list, after.as_deref(), false, limit).await? {
        let Some(id) = std::str::from_utf8(&row.key).ok().and_then(|text| text.parse().ok()) else { continue };
        match site(state, scope, id).await {
            Ok(found) => sites.push(found.value),
            Err(ModelError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((sites, index::count(state, &list).await?))
}
