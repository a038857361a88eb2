//! The log as a file: made while it is sent, at the pace of whoever reads it.

use super::{AuditEntry, AuditParams};
use crate::{
    api::{Caller, Mutation, Query, access::AuditExport, cursor::MAX_LIMIT, mutation::Resource, request_id},
    app::audit,
    context::App,
    error::ApiError,
};
use axum::{
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use breeze_store::model::{
    Scope,
    audit::{Filter, Position, Reach},
};
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Csv,
    Lines,
}

const COLUMNS: [&str; 20] = [
    "timestamp",
    "id",
    "chain",
    "sequence",
    "organization_id",
    "actor_type",
    "actor_id",
    "actor_email",
    "action",
    "resource_type",
    "resource_id",
    "resource_name",
    "result",
    "error_message",
    "ip_address",
    "user_agent",
    "request_id",
    "changes",
    "details",
    "checksum",
];

/// Where an export is.
struct Walk {
    /// Of the request: its own entry is not in it.
    own: String,
    app: App,
    scope: Scope,
    reach: Reach,
    filter: Filter,
    format: Format,
    after: Option<Position>,
    begun: bool,
}

/// The audit log as a file, newest first
///
/// As CSV, or as a JSON object a line. The export is an entry of the log itself.
#[utoipa::path(
    get,
    path = "/api/v1/audit/logs/export",
    tag = "audit",
    params(AuditParams),
    responses((status = 200, description = "The entries", content(
        (String = "text/csv"),
        (String = "application/jsonl"),
    )))
)]
pub(super) async fn export_audit_logs(
    State(app): State<App>,
    caller: Caller<AuditExport>,
    mutation: Mutation,
    Query(query): Query<AuditParams>,
) -> Result<Response, ApiError> {
    let (format, name, kind) = match query.format.as_deref() {
        None | Some("csv") => (Format::Csv, "csv", "text/csv; charset=utf-8"),
        Some("jsonl") => (Format::Lines, "jsonl", "application/jsonl"),
        Some(_) => return Err(ApiError::field("format", "must be csv or jsonl")),
    };
    if query.cursor.is_some() || query.limit.is_some() {
        return Err(ApiError::field("cursor", "an export is whole: leave cursor and limit out"));
    }
    let filter = query.filter()?;
    let reach = audit::reach(&caller, query.organization())?;
    let mut resource =
        Resource::new("audit_log", caller.partner_id).details(json!({ "format": name, "filter": filter }));
    if let Some(organization) = query.organization() {
        resource = Resource { id: Some(organization.to_string()), ..resource }.in_org(organization);
    }
    mutation.record(&app, resource).await?;
    let own = request_id::current().to_string();
    let walk = Walk { own, app, scope: caller.scope().clone(), reach, filter, format, after: None, begun: false };
    let body = Body::from_stream(stream::try_unfold(Some(walk), step));
    let file = format!("attachment; filename=\"audit.{name}\"");
    Ok(([(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, file.as_str())], body).into_response())
}

/// The next piece; the connection is broken off where the log cannot be read on, so that no part is taken for all.
async fn step(walk: Option<Walk>) -> Result<Option<(Bytes, Option<Walk>)>, std::io::Error> {
    let Some(mut walk) = walk else { return Ok(None) };
    let mut text = String::new();
    if !walk.begun {
        walk.begun = true;
        if walk.format == Format::Csv {
            text.push_str(&COLUMNS.join(","));
            text.push_str("\r\n");
        }
    }
    let found = audit::find(&walk.app, &walk.scope, walk.reach, &walk.filter, walk.after.as_ref(), MAX_LIMIT).await;
    let found = found.map_err(|error| {
        tracing::warn!(?error, "an export of the audit log is broken off");
        std::io::Error::other("the audit log cannot be read on")
    })?;
    for (chain, sealed) in found.entries {
        let entry = AuditEntry::of(chain, sealed);
        if entry.request_id.as_ref() == Some(&walk.own) {
            continue;
        }
        match walk.format {
            Format::Csv => csv_line(&entry, &mut text),
            Format::Lines => {
                text.push_str(&serde_json::to_string(&entry).unwrap_or_default());
                text.push('\n');
            }
        }
    }
    walk.after = found.next;
    let next = walk.after.is_some().then_some(walk);
    Ok(Some((text.into(), next)))
}

/// One line of RFC 4180.
fn csv_line(entry: &AuditEntry, text: &mut String) {
    let value = serde_json::to_value(entry).unwrap_or_default();
    for (n, column) in COLUMNS.iter().enumerate() {
        if n > 0 {
            text.push(',');
        }
        let cell = match &value[*column] {
            serde_json::Value::Null => String::new(),
            serde_json::Value::String(cell) => cell.clone(),
            serde_json::Value::Object(fields) if fields.is_empty() => String::new(),
            other @ (serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::Array(_)
            | serde_json::Value::Object(_)) => other.to_string(),
        };
        text.push_str(&quoted(&cell));
    }
    text.push_str("\r\n");
}

/// A cell that no spreadsheet takes for a formula: names come from devices and strangers.
fn quoted(cell: &str) -> String {
    let guard = if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    if guard.is_empty() && !cell.contains([',', '"', '\n', '\r']) {
        return cell.to_owned();
    }
    format!("\"{guard}{}\"", cell.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_never_formulas() {
        for (cell, expected) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("=HYPERLINK(1)", "\"'=HYPERLINK(1)\""),
            ("@x", "\"'@x\""),
            ("", ""),
        ] {
            assert_eq!(quoted(cell), expected);
        }
    }
}
