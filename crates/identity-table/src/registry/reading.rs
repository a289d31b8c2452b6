//! What the registry answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::Registry;
use crate::endpoint::{ClusterState, Endpoint, EndpointName, Namespace, ServiceAccount};
use crate::generation::{Generation, History};
use crate::identity::{Class, ClassId, Identity};
use crate::{IdentityId, Labels};

impl Registry {
    /// The identity of an address, as the table of the last commit answers once it is up to date.
    /// O(log prefixes).
    pub fn lookup(&self, address: IpAddr) -> IdentityId {
        if let Some(id) = self.claims.get(&address).and_then(|claim| claim.identity) {
            return id;
        }
        world(address, self.region_identities[self.regions.cover_index(address)])
    }

    /// Every prefix of the table and its identity, outer prefixes before inner ones; a prefix may
    /// stand twice, the later counts. What a table built from nothing must hold.
    pub fn table(&self) -> impl Iterator<Item = (IpNet, IdentityId)> {
        let regions = self.regions.prefixes().map(|(p, cover)| (p, self.region_identities[cover]));
        let hosts = self.hosts().map(|(address, id)| (address.into(), id));
        default_routes().into_iter().chain(regions).chain(hosts)
    }

    /// The addresses that somebody in the cluster has, each with its identity; in no order.
    pub fn hosts(&self) -> impl Iterator<Item = (IpAddr, IdentityId)> {
        self.claims.iter().filter_map(|(&address, claim)| Some((address, claim.identity?)))
    }

    /// What a table must hold for this very address, whatever it holds for prefixes around it.
    /// O(log prefixes).
    pub fn host(&self, address: IpAddr) -> Option<IdentityId> {
        let claimed = self.claims.get(&address).and_then(|claim| claim.identity);
        let region = || self.regions.listed_host(address).map(|at| self.region_identities[at]);
        claimed.or_else(region)
    }

    /// The identity of this number, if it is alive.
    pub fn identity(&self, id: IdentityId) -> Option<&Arc<Identity>> {
        self.interner.identity(id)
    }

    /// All identities that are alive, by number.
    pub fn identities(&self) -> impl Iterator<Item = &Arc<Identity>> {
        self.interner.identities()
    }

    /// The class of this number, if it is alive.
    pub fn class(&self, id: ClassId) -> Option<&Arc<Class>> {
        self.interner.class(id)
    }

    /// All classes that are alive, by number.
    pub fn classes(&self) -> impl Iterator<Item = (ClassId, &Arc<Class>)> {
        self.interner.classes()
    }

    /// All endpoints, in no order.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.values()
    }

    /// The endpoint of this name.
    pub fn endpoint(&self, name: &EndpointName) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(name)
    }

    /// The endpoint, not a host-networked one, that owns an address.
    pub fn owner(&self, address: IpAddr) -> Option<&Arc<Endpoint>> {
        self.claims.get(&address)?.pod.as_ref()
    }

    /// Everything that was put in, as [`Registry::replace_cluster`] takes it; lists in no order.
    /// O(cluster).
    pub fn cluster(&self) -> ClusterState {
        let accounts = self.service_accounts.iter().flat_map(|(namespace, accounts)| {
            accounts.iter().map(|(name, labels)| ServiceAccount {
                namespace: namespace.clone(),
                name: name.clone(),
                labels: labels.clone(),
            })
        });
        ClusterState {
            namespaces: self.namespaces.values().cloned().collect(),
            service_accounts: accounts.collect(),
            nodes: self.nodes.values().cloned().collect(),
            endpoints: self.endpoints.values().map(|endpoint| (**endpoint).clone()).collect(),
        }
    }

    /// The labels of a namespace; one that the cluster does not have carries its name alone.
    pub fn namespace(&self, name: &str) -> Namespace {
        let known = self.namespaces.get(name).cloned();
        known.unwrap_or_else(|| Namespace::new(name, Labels::default()))
    }

    /// Who had which identity and address when.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The generation of the last commit.
    pub fn generation(&self) -> Generation {
        self.generation
    }
}

/// What covers every address that nothing else does.
pub(super) fn default_routes() -> [(IpNet, IdentityId); 2] {
    [
        (IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0), IdentityId::WORLD_V4),
        (IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0), IdentityId::WORLD_V6),
    ]
}

/// The reserved identity of an address outside the cluster, if no prefix gave it another.
pub(super) fn world(address: IpAddr, id: IdentityId) -> IdentityId {
    match (id, address) {
        (IdentityId::UNKNOWN, IpAddr::V4(_)) => IdentityId::WORLD_V4,
        (IdentityId::UNKNOWN, IpAddr::V6(_)) => IdentityId::WORLD_V6,
        (id, _) => id,
    }
}
