//! The entities, written once above [`crate::state::State`]. Every call on a tenant's data carries
//! the caller's [`Scope`], which only the composition root and the authenticator can make.

pub mod audit;
pub mod device;
pub mod device_state;
pub mod enrollment;
pub mod error;
pub mod index;
pub mod instance;
pub mod inventory;
pub mod lane;
pub mod people;
pub mod record;
pub mod relay;
pub mod scope;
pub mod session;
pub mod tenancy;
pub mod trust;

pub use scope::{Scope, Sites, Tenant};

use crate::state::Table;

/// All tables of the model, for what creates them.
#[must_use]
pub fn tables() -> Vec<Table> {
    vec![
        audit::HEADS.into(),
        audit::INDEX.into(),
        audit::LOG.into(),
        device::DEVICES.into(),
        device_state::DEVICE_STATE.into(),
        enrollment::KEYS.into(),
        index::INDEX.into(),
        instance::INSTANCE.into(),
        inventory::INVENTORY.into(),
        lane::LANES.into(),
        people::EMAILS.into(),
        people::USERS.into(),
        relay::RELAYS.into(),
        session::SESSIONS.into(),
        tenancy::ORGANIZATIONS.into(),
        tenancy::PARTNERS.into(),
        tenancy::SITES.into(),
        trust::REVOCATIONS.into(),
        trust::ROOTS.into(),
        trust::VERSIONS.into(),
        crate::history::EVENTS.into(),
        crate::history::INVENTORY_HASHES.into(),
        crate::history::INVENTORY_VERSIONS.into(),
    ]
}

#[cfg(test)]
mod tests {
    use crate::state::Table;
    use std::{fs, path::Path};

    /// Two tables of one kind under one name would be one table.
    #[test]
    fn names_are_taken_once() {
        let mut names: Vec<_> =
            super::tables().iter().map(|table| (matches!(table, Table::Commit(_)), table.name())).collect();
        names.sort_unstable();
        let before = names.len();
        names.dedup();
        assert_eq!(names.len(), before);
    }

    /// A table that is not listed would not be made in a database.
    #[test]
    fn none_is_forgotten() {
        fn declared(folder: &Path) -> usize {
            let count = |file: fs::DirEntry| {
                let path = file.path();
                if path.is_dir() {
                    return declared(&path);
                }
                let source = fs::read_to_string(path).expect("readable");
                let shipped = source.split("#[cfg(test)]").next().unwrap_or_default();
                shipped.matches(": CommitTable = ").count() + shipped.matches(": MergeTable = ").count()
            };
            fs::read_dir(folder).expect("a folder").map(|file| count(file.expect("an entry"))).sum()
        }
        assert_eq!(super::tables().len(), declared(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")));
    }
}
