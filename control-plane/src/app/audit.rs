//! Reading the audit log.

use crate::{
    api::{Caller, access::AuditRead},
    context::App,
    error::ApiError,
};
use breeze_store::model::audit::Sealed;

/// Entries of the caller's partner before `before`, newest first, and how many there are.
///
/// # Errors
/// The store's.
pub async fn page(
    app: &App,
    caller: &Caller<AuditRead>,
    before: Option<u64>,
    limit: usize,
) -> Result<(Vec<Sealed>, u64), ApiError> {
    Ok(app.audit.page(caller.scope(), Some(caller.partner_id), before, limit).await?)
}
