//! Who calls, and what they may do. A handler takes [`Caller<P>`]: there is no way to get one but to
//! be registered with a guard that demanded the permission `P` and found it.

use crate::{context::App, error::ApiError};
use axum::{extract::FromRequestParts, http::request::Parts};
use breeze_proto::id::{OrgId, PartnerId, SessionId, UserId};
use breeze_store::model::{
    Scope,
    people::Role,
    session::{Kind, Session},
};
use std::{marker::PhantomData, ops::Deref, sync::Arc};

/// Something that a role may do.
pub trait Permission: Send + Sync + 'static {
    /// `<resource>:<action>`.
    const NAME: &'static str;
}

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy)]
            pub enum $name {}
            impl Permission for $name {
                const NAME: &'static str = $text;
            }
        )*
        /// Every permission there is.
        pub const ALL_PERMISSIONS: &[&str] = &[$($text),*];
    };
}

permissions! {
    /// Be signed in: one's own session.
    OwnSession = "session:own";
    DevicesRead = "devices:read";
    DevicesWrite = "devices:write";
    DevicesDelete = "devices:delete";
    EnrollmentRead = "enrollment:read";
    EnrollmentWrite = "enrollment:write";
    OrganizationsRead = "organizations:read";
    AuditRead = "audit:read";
    /// Take entries out of the house.
    AuditExport = "audit:export";
    /// Say how long entries are kept, and hold them.
    AuditManage = "audit:manage";
    StatusRead = "status:read";
}

/// Whether a role has a permission.
#[must_use]
pub fn grants(role: Role, permission: &str) -> bool {
    match role {
        Role::PartnerAdmin => ALL_PERMISSIONS.contains(&permission),
    }
}

/// An authenticated person and session.
#[derive(Debug)]
pub struct Principal {
    pub user_id: UserId,
    pub email: String,
    pub name: String,
    pub role: Role,
    pub partner_id: PartnerId,
    /// Whose devices are shown; the partner's first organization, while there is but one.
    pub org_id: OrgId,
    pub scope: Scope,
    pub session: Session,
}

impl Principal {
    #[must_use]
    pub const fn session_id(&self) -> SessionId {
        self.session.id
    }

    /// Whether a cookie carried the session, so that another page could have made the browser send it.
    #[must_use]
    pub const fn by_cookie(&self) -> bool {
        matches!(self.session.kind, Kind::Browser)
    }
}

/// Proof that the caller is signed in and has the permission `P`.
pub struct Caller<P> {
    principal: Arc<Principal>,
    permission: PhantomData<fn() -> P>,
}

impl<P> std::fmt::Debug for Caller<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller").field("user", &self.principal.user_id).finish_non_exhaustive()
    }
}

impl<P> Clone for Caller<P> {
    fn clone(&self) -> Self {
        Self { principal: Arc::clone(&self.principal), permission: PhantomData }
    }
}

impl<P: Permission> Caller<P> {
    /// Only the guard proves.
    pub(super) fn proven(principal: Arc<Principal>) -> Self {
        Self { principal, permission: PhantomData }
    }

    #[must_use]
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.principal.scope
    }
}

impl<P> Deref for Caller<P> {
    type Target = Principal;

    fn deref(&self) -> &Principal {
        &self.principal
    }
}

impl<P: Permission> FromRequestParts<App> for Caller<P> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| ApiError::internal(format!("the handler demands {}, its registration does not", P::NAME)))
    }
}
