//! What a caller may reach, carried by every call on tenants' data.
//!
//! There is no `Default`, no deserialization and no way to widen a scope: one is made where a
//! request has been authenticated, or by the system itself for a stated reason.

use breeze_proto::id::{OrgId, PartnerId, SiteId};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Which sites of one organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sites {
    /// All, also those made later.
    All,
    Only(BTreeSet<SiteId>),
}

/// What a person or key of a partner may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    pub partner: PartnerId,
    /// Organizations not named here do not exist for the caller.
    pub organizations: BTreeMap<OrgId, Sites>,
}

#[derive(Debug, Clone)]
enum Reach {
    System(&'static str),
    Tenant(Arc<Tenant>),
}

/// What a caller may reach. Cheap to clone.
///
/// Rows outside the scope are treated as if they did not exist: callers answer "not found", never
/// "forbidden", so that ids of other tenants cannot be probed.
#[derive(Debug, Clone)]
pub struct Scope(Reach);

impl Scope {
    /// Everything. `reason` goes to logs: name the task that does it ("sign-in", "rebuild of the
    /// directory"), never pass it on behalf of a user's request that has a scope of its own.
    #[must_use]
    pub const fn system(reason: &'static str) -> Self {
        Self(Reach::System(reason))
    }

    /// What an authenticated caller may reach.
    #[must_use]
    pub fn tenant(tenant: Tenant) -> Self {
        Self(Reach::Tenant(Arc::new(tenant)))
    }

    /// Why this is the system's scope, if it is.
    #[must_use]
    pub const fn system_reason(&self) -> Option<&'static str> {
        match &self.0 {
            Reach::System(reason) => Some(reason),
            Reach::Tenant(_) => None,
        }
    }

    /// The partner, and `None` for the system.
    #[must_use]
    pub fn partner(&self) -> Option<PartnerId> {
        match &self.0 {
            Reach::System(_) => None,
            Reach::Tenant(tenant) => Some(tenant.partner),
        }
    }

    /// Whether what belongs to the site of the organization may be reached.
    #[must_use]
    pub fn allows(&self, organization: OrgId, site: SiteId) -> bool {
        match &self.0 {
            Reach::System(_) => true,
            Reach::Tenant(tenant) => match tenant.organizations.get(&organization) {
                None => false,
                Some(Sites::All) => true,
                Some(Sites::Only(sites)) => sites.contains(&site),
            },
        }
    }

    /// Whether what belongs to the whole organization, and to no site of it, may be reached.
    #[must_use]
    pub fn allows_organization(&self, organization: OrgId) -> bool {
        match &self.0 {
            Reach::System(_) => true,
            Reach::Tenant(tenant) => tenant.organizations.get(&organization) == Some(&Sites::All),
        }
    }

    /// Whether anything of the organization may be reached, so that it is shown at all.
    #[must_use]
    pub fn sees_organization(&self, organization: OrgId) -> bool {
        match &self.0 {
            Reach::System(_) => true,
            Reach::Tenant(tenant) => match tenant.organizations.get(&organization) {
                None => false,
                Some(Sites::All) => true,
                Some(Sites::Only(sites)) => !sites.is_empty(),
            },
        }
    }

    /// Whether what belongs to the partner itself may be reached.
    #[must_use]
    pub fn allows_partner(&self, partner: PartnerId) -> bool {
        match &self.0 {
            Reach::System(_) => true,
            Reach::Tenant(tenant) => tenant.partner == partner,
        }
    }

    /// The organizations to list, and `None` for all there are.
    pub fn organizations(&self) -> Option<impl Iterator<Item = (OrgId, &Sites)>> {
        match &self.0 {
            Reach::System(_) => None,
            Reach::Tenant(tenant) => Some(tenant.organizations.iter().map(|(id, sites)| (*id, sites))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reaches_exactly_what_it_names() {
        let (whole, part, foreign) = (OrgId::generate(), OrgId::generate(), OrgId::generate());
        let (site, other) = (SiteId::generate(), SiteId::generate());
        let partner = PartnerId::generate();
        let organizations = BTreeMap::from([(whole, Sites::All), (part, Sites::Only(BTreeSet::from([site])))]);
        let scope = Scope::tenant(Tenant { partner, organizations });

        assert!(scope.allows(whole, other) && scope.allows_organization(whole));
        assert!(scope.allows(part, site) && !scope.allows(part, other));
        assert!(scope.sees_organization(part) && !scope.allows_organization(part));
        assert!(!scope.allows(foreign, site) && !scope.sees_organization(foreign));
        assert!(scope.allows_partner(partner) && !scope.allows_partner(PartnerId::generate()));
        assert_eq!(scope.organizations().map(Iterator::count), Some(2));

        let system = Scope::system("test");
        assert!(system.allows(foreign, site) && system.organizations().is_none());
        assert_eq!(system.system_reason(), Some("test"));
    }
}
