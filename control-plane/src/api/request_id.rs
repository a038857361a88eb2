//! The id of the request that this task works for: in the answer's header, in problems, logs and audit.

use breeze_proto::id::RequestId;
use uuid::Uuid;

tokio::task_local! {
    static CURRENT: RequestId;
}

/// The header's name.
pub const HEADER: &str = "x-request-id";

/// Runs `future` as the work of request `id`.
pub async fn scope<F: Future>(id: RequestId, future: F) -> F::Output {
    CURRENT.scope(id, future).await
}

/// The id in force; all zeros outside a request.
#[must_use]
pub fn current() -> RequestId {
    CURRENT.try_with(|id| *id).unwrap_or(RequestId::from_uuid(Uuid::nil()))
}
