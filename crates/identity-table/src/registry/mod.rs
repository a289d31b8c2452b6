//! The registry: a cluster's endpoints, nodes and loaded prefixes, grouped into identities as they
//! come and go.
//!
//! One writer. Changes are collected and handed out by [`Registry::commit`] as one [`Delta`]: what
//! the address table must insert and remove, and which classes and identities are new or gone.
//!
//! ```
//! use portcullis_identity_table::endpoint::Endpoint;
//! use portcullis_identity_table::registry::Registry;
//! let pod = |name: &str, address: &str| Endpoint {
//!     labels: [("app", "web")].into_iter().collect(),
//!     addresses: vec![address.parse().unwrap()],
//!     ..Endpoint::new("shop", name)
//! };
//! let mut registry = Registry::new();
//! registry.commit();
//! registry.upsert_endpoint(pod("web-0", "10.0.0.1")).unwrap();
//! let first = registry.commit();
//! assert_eq!((first.table.len(), first.classes.len(), first.identities.len()), (1, 1, 1));
//!
//! // A pod like its sibling: one table entry, nothing to compile.
//! registry.upsert_endpoint(pod("web-1", "10.0.0.2")).unwrap();
//! let second = registry.commit();
//! assert_eq!((second.table.len(), second.classes.len(), second.identities.len()), (1, 0, 0));
//! assert_eq!(registry.lookup("10.0.0.1".parse().unwrap()), registry.lookup("10.0.0.2".parse().unwrap()));
//! ```

mod check;
mod claims;
pub mod exchange;
mod reading;
mod regions;

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use ahash::AHashMap;
use ipnet::IpNet;

use self::check::{check, describe};
pub use self::exchange::NextRegions;
use self::reading::default_routes;
use crate::endpoint::{ClusterState, Endpoint, EndpointName, Namespace, Node};
use crate::generation::{Generation, History};
use crate::identity::{ClassId, Interner, NodeNumber, PodNumber};
use crate::region::Regions;
use crate::{IdentityId, Labels};

/// What a cluster state or an update was refused for; nothing of it was applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two owners of one address.
    #[error("address {address} is claimed by {first} and by {second}; an address has one owner")]
    AddressClash {
        /// The address.
        address: IpAddr,
        /// Who has it.
        first: String,
        /// Who claims it too.
        second: String,
    },
    /// Two objects of one kind and name.
    #[error("{kind} {name} stands twice in the cluster state")]
    Duplicate {
        /// The kind of object.
        kind: &'static str,
        /// Its name.
        name: String,
    },
}

/// What changed since the last [`Registry::commit`].
#[derive(Clone, Debug, Default)]
pub struct Delta {
    /// The generation that the changes make.
    pub generation: Generation,
    /// Table updates in order: insert or replace the identity of the prefix, or remove the prefix.
    pub table: Vec<(IpNet, Option<IdentityId>)>,
    /// Classes that came or went: [`Registry::class`] tells which.
    pub classes: Vec<ClassId>,
    /// Identities that came or went: [`Registry::identity`] tells which. An identity must be known
    /// to the compiled program before the table gives it out.
    pub identities: Vec<IdentityId>,
}

impl Delta {
    /// Whether only the address table is concerned, so that no program need be compiled.
    pub fn is_table_only(&self) -> bool {
        self.classes.is_empty() && self.identities.is_empty()
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Registry {
    namespaces: AHashMap<Box<str>, Namespace>,
    service_accounts: AHashMap<Box<str>, AHashMap<Box<str>, Labels>>,
    nodes: AHashMap<Box<str>, Node>,
    node_numbers: AHashMap<Arc<str>, NodeNumber>,
    endpoints: AHashMap<EndpointName, Arc<Endpoint>>,
    pod_numbers: AHashMap<EndpointName, PodNumber>,
    pods_numbered: u32,
    claims: AHashMap<IpAddr, Claim>,
    regions: Arc<Regions>,
    /// Identity of each cover of `regions`, by its index there.
    region_identities: Vec<IdentityId>,
    interner: Interner,
    history: History,
    generation: Generation,
    pending: Pending,
    /// Tells this registry from others.
    this: Arc<()>,
    /// Released numbers, with the first generation that does not use them.
    quarantine: VecDeque<(Generation, IdentityId)>,
}

/// Who claims an address, and the identity it has.
#[derive(Debug, Default)]
struct Claim {
    pod: Option<Arc<Endpoint>>,
    /// Names of the nodes and the nodes of host-networked endpoints, one entry a claim.
    hosts: Vec<Arc<str>>,
    identity: Option<IdentityId>,
}

#[derive(Debug, Default)]
struct Pending {
    table: Vec<(IpNet, Option<IdentityId>)>,
    classes: BTreeSet<ClassId>,
    identities: BTreeSet<IdentityId>,
    released: Vec<IdentityId>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// An empty cluster: every address is outside it, as the first [`Delta`] says.
    pub fn new() -> Self {
        let table = default_routes().map(|(prefix, id)| (prefix, Some(id))).into();
        Self {
            namespaces: AHashMap::new(),
            service_accounts: AHashMap::new(),
            nodes: AHashMap::new(),
            node_numbers: AHashMap::new(),
            endpoints: AHashMap::new(),
            pod_numbers: AHashMap::new(),
            pods_numbered: 0,
            claims: AHashMap::new(),
            regions: Arc::default(),
            region_identities: vec![IdentityId::UNKNOWN],
            interner: Interner::new(),
            history: History::default(),
            generation: Generation::default(),
            pending: Pending { table, ..Pending::default() },
            this: Arc::default(),
            quarantine: VecDeque::new(),
        }
    }

    /// Makes the registry hold exactly this cluster. O(cluster); untouched endpoints keep their
    /// identities.
    ///
    /// # Errors
    /// [`Error`] for the first contradiction; nothing is changed then.
    pub fn replace_cluster(&mut self, cluster: ClusterState) -> Result<(), Error> {
        check(&cluster)?;
        let mut stale = BTreeSet::new();
        let namespaces = cluster.namespaces.into_iter().map(|n| (n.name.clone(), n)).collect();
        let mut accounts = AHashMap::<Box<str>, AHashMap<Box<str>, Labels>>::new();
        for account in cluster.service_accounts {
            accounts.entry(account.namespace).or_default().insert(account.name, account.labels);
        }
        let nodes = cluster.nodes.into_iter().map(|n| (n.name.clone(), n)).collect();
        let endpoints = cluster.endpoints.into_iter().map(|e| (e.key(), Arc::new(e))).collect();

        // What endpoints inherit may have changed under any of them.
        let inherited = self.namespaces != namespaces || self.service_accounts != accounts;
        if inherited {
            self.namespaces = namespaces;
            self.service_accounts = accounts;
            stale.extend(self.claims.keys());
        }
        if self.nodes != nodes {
            for (_, node) in std::mem::replace(&mut self.nodes, nodes) {
                self.unclaim_node(&node, &mut stale);
            }
            for node in self.nodes.clone().values() {
                self.claim_node(node, &mut stale);
            }
            // Labels may have changed under addresses that host-networked endpoints claim.
            let hosts = self.claims.iter().filter(|(_, claim)| !claim.hosts.is_empty());
            stale.extend(hosts.map(|(address, _)| address));
        }
        let old: AHashMap<_, Arc<Endpoint>> = std::mem::replace(&mut self.endpoints, endpoints);
        for (name, endpoint) in &old {
            if self.endpoints.get(name) != Some(endpoint) {
                self.unclaim_endpoint(endpoint, &mut stale);
                self.pod_numbers.remove(name);
            }
        }
        let new: Vec<_> = self.endpoints.iter().filter(|(n, e)| old.get(*n) != Some(e)).collect();
        for endpoint in new.into_iter().map(|(_, e)| e.clone()).collect::<Vec<_>>() {
            self.claim_endpoint(&endpoint, &mut stale);
        }
        for address in stale {
            self.refresh(address);
        }
        Ok(())
    }

    /// Adds an endpoint, or replaces the one of the same namespace and name. O(addresses).
    ///
    /// # Errors
    /// [`Error::AddressClash`] if another endpoint or node has one of its addresses; nothing is
    /// changed then.
    pub fn upsert_endpoint(&mut self, endpoint: Endpoint) -> Result<(), Error> {
        let name = endpoint.key();
        for &address in &endpoint.addresses {
            let Some(claim) = self.claims.get(&address) else { continue };
            let other = claim.pod.as_ref().filter(|pod| pod.key() != name);
            let first = match (other, endpoint.host_network) {
                (Some(pod), _) => describe(pod),
                (None, false) if !claim.hosts.is_empty() => match self.other_host(&name, address) {
                    Some(host) => host,
                    None => continue,
                },
                (None, _) => continue,
            };
            return Err(Error::AddressClash { address, first, second: describe(&endpoint) });
        }
        let mut stale = BTreeSet::new();
        let endpoint = Arc::new(endpoint);
        if let Some(old) = self.endpoints.insert(name.clone(), endpoint.clone()) {
            self.unclaim_endpoint(&old, &mut stale);
            self.pod_numbers.remove(&name);
        }
        self.claim_endpoint(&endpoint, &mut stale);
        for address in stale {
            self.refresh(address);
        }
        Ok(())
    }

    /// Takes an endpoint out; tells whether it was there. O(addresses).
    pub fn remove_endpoint(&mut self, name: &EndpointName) -> bool {
        let Some(old) = self.endpoints.remove(name) else { return false };
        let mut stale = BTreeSet::new();
        self.unclaim_endpoint(&old, &mut stale);
        self.pod_numbers.remove(name);
        for address in stale {
            self.refresh(address);
        }
        true
    }

    /// Closes the changes made so far and hands them out as one generation.
    pub fn commit(&mut self) -> Delta {
        self.generation = self.generation.next();
        let pending = std::mem::take(&mut self.pending);
        for &id in &pending.identities {
            self.history.identity(self.generation, id, self.interner.identity(id).cloned());
        }
        self.quarantine.extend(pending.released.into_iter().map(|id| (self.generation, id)));
        Delta {
            generation: self.generation,
            table: pending.table,
            classes: pending.classes.into_iter().collect(),
            identities: pending.identities.into_iter().collect(),
        }
    }

    /// Says that no reader holds anything older than `oldest`: identities that were gone by then may
    /// be given again, and history before it is forgotten.
    pub fn reclaim(&mut self, oldest: Generation) {
        while let Some(&(since, id)) = self.quarantine.front()
            && since <= oldest
        {
            self.quarantine.pop_front();
            self.interner.reuse(id);
        }
        self.history.forget(oldest);
    }
}
