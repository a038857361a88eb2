//! Typed ids. All are UUIDs; a device's id is not interchangeable with an organization's.
//!
//! New ids are version 7 (they sort by time of creation). The id of an entity that a request
//! creates under an idempotency key is version 8 and derives from the principal, the route and the
//! key, so that the same request makes the same id wherever it is handled.

use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};
use uuid::Uuid;

/// The text was not a UUID in its hyphenated form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id: expected a UUID such as 018f3f3e-7a1c-7000-8000-000000000001")]
pub struct ParseIdError;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id, in the order of its making.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id that `principal` creates on `route` under `key`; see the module.
            #[must_use]
            pub fn derive(principal: &[u8], route: &str, key: &str) -> Self {
                Self(derive(stringify!($name), principal, route, key))
            }

            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }

            /// `None` unless `bytes` are exactly 16.
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Uuid::from_slice(bytes).ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0.hyphenated())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                if text.len() != 36 {
                    return Err(ParseIdError);
                }
                Uuid::try_parse(text).map(Self).map_err(|_| ParseIdError)
            }
        }
    )*};
}

ids! {
    /// A managed computer; the only name in its certificate.
    DeviceId;
    /// A managed service provider or enterprise: the top tenant.
    PartnerId;
    /// A partner's customer.
    OrgId;
    /// A location of an organization.
    SiteId;
    /// A person.
    UserId;
    /// A browser's or client's signed-in session.
    SessionId;
    /// A key that admits devices.
    EnrollmentKeyId;
    /// One entry of the audit log.
    AuditId;
    /// One HTTP request, in logs, problem documents and audit.
    RequestId;
    /// One installation of Breeze.
    InstanceId;
}

fn derive(kind: &str, principal: &[u8], route: &str, key: &str) -> Uuid {
    let mut hash = Sha256::new();
    for part in [b"breeze/v1/id".as_slice(), kind.as_bytes(), principal, route.as_bytes(), key.as_bytes()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Uuid::new_v8(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_depend_on_every_part_and_on_the_kind() {
        let id = DeviceId::derive(b"alice", "/devices", "k");
        assert_eq!(id, DeviceId::derive(b"alice", "/devices", "k"));
        assert_ne!(id, DeviceId::derive(b"bob", "/devices", "k"));
        assert_ne!(id, DeviceId::derive(b"alice", "/device", "sk"));
        assert_ne!(id.uuid(), OrgId::derive(b"alice", "/devices", "k").uuid());
    }

    #[test]
    fn only_the_hyphenated_form_parses() {
        let id = DeviceId::generate();
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "x", "018f3f3e7a1c70008000000000000001", "{018f3f3e-7a1c-7000-8000-000000000001}"] {
            assert_eq!(bad.parse::<DeviceId>(), Err(ParseIdError), "{bad}");
        }
    }
}
