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

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use ipnet::IpNet;

use crate::endpoint::{ClusterState, Endpoint, EndpointName, Namespace, Node, ServiceAccount};
use crate::generation::{Generation, History};
use crate::identity::{
    Added, Class, ClassId, Identity, Interner, NodeNumber, Owner, PodNumber, Workload,
};
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
    regions: Regions,
    /// Identity of each cover of `regions`, by its index there.
    region_identities: Vec<IdentityId>,
    interner: Interner,
    history: History,
    generation: Generation,
    pending: Pending,
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
            regions: Regions::default(),
            region_identities: vec![IdentityId::UNKNOWN],
            interner: Interner::new(),
            history: History::default(),
            generation: Generation::default(),
            pending: Pending { table, ..Pending::default() },
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

    /// Replaces the prefixes that loaded policies and sets name. O(prefixes + addresses); addresses
    /// whose cover stays keep their identities.
    pub fn set_regions(&mut self, regions: Regions) {
        // Acquire before releasing, so that what stays keeps its number.
        let mut identities = vec![IdentityId::UNKNOWN; regions.covers().len()];
        for (_, cover) in regions.prefixes() {
            if identities[cover] == IdentityId::UNKNOWN {
                let class = Class { owner: Owner::World, cover: regions.covers()[cover].clone() };
                identities[cover] = self.acquire(class, None, None);
            }
        }
        let old_regions = std::mem::replace(&mut self.regions, regions);
        let old_identities = std::mem::replace(&mut self.region_identities, identities);
        self.diff_regions(&old_regions, &old_identities);
        let moved: BTreeSet<IpAddr> = self
            .claims
            .iter()
            .filter(|(address, claim)| {
                let identity = claim.identity.and_then(|id| self.interner.identity(id));
                identity.is_none_or(|i| i.class.cover[..] != self.regions.cover(**address)[..])
            })
            .map(|(address, _)| *address)
            .collect();
        for address in moved {
            self.refresh(address);
        }
        for id in old_identities {
            self.release(id);
        }
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
        let hosts = self.claims.iter().filter_map(|(&a, claim)| Some((a.into(), claim.identity?)));
        default_routes().into_iter().chain(regions).chain(hosts)
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

    fn claim_endpoint(&mut self, endpoint: &Arc<Endpoint>, stale: &mut BTreeSet<IpAddr>) {
        let host = self.host_of(endpoint);
        for &address in &endpoint.addresses {
            let claim = self.claims.entry(address).or_default();
            if endpoint.host_network {
                claim.hosts.extend(host.clone());
            } else {
                claim.pod = Some(endpoint.clone());
            }
            stale.insert(address);
        }
    }

    fn unclaim_endpoint(&mut self, endpoint: &Endpoint, stale: &mut BTreeSet<IpAddr>) {
        for &address in &endpoint.addresses {
            if endpoint.host_network {
                self.unclaim_host(address, endpoint.node.as_deref());
            } else if let Some(claim) = self.claims.get_mut(&address) {
                claim.pod = None;
            }
            stale.insert(address);
        }
    }

    fn claim_node(&mut self, node: &Node, stale: &mut BTreeSet<IpAddr>) {
        let (_, name) = self.node_number(&node.name);
        for &address in &node.addresses {
            self.claims.entry(address).or_default().hosts.push(name.clone());
            stale.insert(address);
        }
    }

    fn unclaim_node(&mut self, node: &Node, stale: &mut BTreeSet<IpAddr>) {
        for &address in &node.addresses {
            self.unclaim_host(address, Some(&node.name));
            stale.insert(address);
        }
    }

    fn unclaim_host(&mut self, address: IpAddr, node: Option<&str>) {
        let Some(claim) = self.claims.get_mut(&address) else { return };
        if let Some(at) = claim.hosts.iter().position(|name| Some(&**name) == node) {
            claim.hosts.swap_remove(at);
        }
    }

    /// The node whose network a host-networked endpoint shares.
    fn host_of(&mut self, endpoint: &Endpoint) -> Option<Arc<str>> {
        if !endpoint.host_network {
            return None;
        }
        let node = endpoint.node.clone()?;
        Some(self.node_number(&node).1)
    }

    fn node_number(&mut self, name: &str) -> (NodeNumber, Arc<str>) {
        if let Some((name, &number)) = self.node_numbers.get_key_value(name) {
            return (number, name.clone());
        }
        let count = u32::try_from(self.node_numbers.len() + 1).ok().and_then(NonZeroU32::new);
        let number = NodeNumber(count.expect("fewer than 2^32 nodes"));
        let name: Arc<str> = name.into();
        self.node_numbers.insert(name.clone(), number);
        (number, name)
    }

    /// Gives an address the identity that its present claims make, and notes the table update.
    fn refresh(&mut self, address: IpAddr) {
        let Some(claim) = self.claims.get(&address) else { return };
        let (old, pod) = (claim.identity, claim.pod.clone());
        // The node that lists the address, else the first of those that endpoints run on.
        let lists = |name: &&Arc<str>| {
            self.nodes.get(&***name).is_some_and(|node| node.addresses.contains(&address))
        };
        let host = claim.hosts.iter().find(lists).or(claim.hosts.iter().min()).cloned();
        let cover = self.regions.cover(address).clone();
        let new = if let Some(pod) = &pod {
            let node = pod.node.as_deref().map(|name| self.node_number(name));
            let owner = Owner::Workload(self.workload(pod));
            let own = self.pod_number(pod);
            Some(self.acquire(Class { owner, cover }, node, own))
        } else if let Some(name) = host {
            let labels = self.nodes.get(&*name).map(|n| n.labels.clone()).unwrap_or_default();
            let node = Some(self.node_number(&name));
            Some(self.acquire(Class { owner: Owner::Node { name, labels }, cover }, node, None))
        } else {
            None
        };
        match self.claims.get_mut(&address) {
            Some(claim) if new.is_some() => claim.identity = new,
            _ => {
                self.claims.remove(&address);
            }
        }
        if new != old {
            // A claimed address hides a region of that one address; it comes back to light.
            let region = || self.regions.listed_host(address).map(|i| self.region_identities[i]);
            self.pending.table.push((address.into(), new.or_else(region)));
        }
        self.history.endpoint(self.generation.next(), address, pod);
        if let Some(old) = old {
            self.release(old);
        }
    }

    fn workload(&self, pod: &Endpoint) -> Workload {
        let accounts = self.service_accounts.get(&pod.namespace);
        let labels =
            accounts.and_then(|a| a.get(&pod.service_account)).cloned().unwrap_or_default();
        let mut named_ports = pod.named_ports.clone();
        named_ports.sort_unstable();
        named_ports.dedup();
        Workload {
            namespace: self.namespace(&pod.namespace),
            labels: pod.labels.clone(),
            service_account: ServiceAccount {
                namespace: pod.namespace.clone(),
                name: pod.service_account.clone(),
                labels,
            },
            named_ports: named_ports.into(),
        }
    }

    /// The number of a pod that needs identities of its own.
    fn pod_number(&mut self, pod: &Endpoint) -> Option<(PodNumber, EndpointName)> {
        let mut addresses = pod.addresses.clone();
        addresses.sort_unstable();
        addresses.dedup();
        let v4 = addresses.iter().filter(|a| a.is_ipv4()).count();
        if v4 < 2 && addresses.len() - v4 < 2 {
            return None;
        }
        let name = pod.key();
        let pods_numbered = &mut self.pods_numbered;
        let number = *self.pod_numbers.entry(name.clone()).or_insert_with(|| {
            *pods_numbered += 1;
            PodNumber(NonZeroU32::new(*pods_numbered).expect("fewer than 2^32 such pods"))
        });
        Some((number, name))
    }

    /// A node or a host-networked endpoint of another name at this address.
    fn other_host(&self, name: &EndpointName, address: IpAddr) -> Option<String> {
        let node = self.nodes.values().find(|n| n.addresses.contains(&address));
        let endpoint = || {
            self.endpoints
                .values()
                .find(|e| e.host_network && e.key() != *name && e.addresses.contains(&address))
        };
        node.map(|n| format!("node {}", n.name)).or_else(|| endpoint().map(|e| describe(e)))
    }

    fn acquire(
        &mut self,
        class: Class,
        node: Option<(NodeNumber, Arc<str>)>,
        pod: Option<(PodNumber, EndpointName)>,
    ) -> IdentityId {
        let mut added = Added::default();
        let id = self.interner.acquire(class, node, pod, &mut added);
        self.pending.classes.extend(added.classes);
        self.pending.identities.extend(added.identities);
        id
    }

    fn release(&mut self, id: IdentityId) {
        if !id.is_dynamic() {
            return;
        }
        if let Some(gone) = self.interner.release(id) {
            self.pending.identities.insert(id);
            self.pending.released.push(id);
            self.pending.classes.extend(gone.class);
        }
    }

    /// Notes what the table must change to go from the old regions to the present ones.
    fn diff_regions(&mut self, old: &Regions, old_identities: &[IdentityId]) {
        let mut before = old.prefixes().map(|(p, c)| (p, old_identities[c])).peekable();
        let mut after =
            self.regions.prefixes().map(|(p, c)| (p, self.region_identities[c])).peekable();
        let default = |prefix: IpNet| {
            (prefix.prefix_len() == 0).then(|| world(prefix.addr(), IdentityId::UNKNOWN))
        };
        loop {
            let order = match (before.peek(), after.peek()) {
                (None, None) => return,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((a, _)), Some((b, _))) => order_of(a).cmp(&order_of(b)),
            };
            let gone = if order.is_le() { before.next() } else { None };
            let come = if order.is_ge() { after.next() } else { None };
            let hidden = |prefix: &IpNet| {
                prefix.prefix_len() == prefix.max_prefix_len()
                    && self.claims.get(&prefix.addr()).is_some_and(|c| c.identity.is_some())
            };
            match (gone, come) {
                (Some((prefix, _)), _) | (_, Some((prefix, _))) if hidden(&prefix) => {}
                (Some((_, a)), Some((_, b))) if a == b => {}
                (_, Some((prefix, id))) => self.pending.table.push((prefix, Some(id))),
                (Some((prefix, _)), None) => self.pending.table.push((prefix, default(prefix))),
                (None, None) => return,
            }
        }
    }
}

/// The order in which [`Regions::prefixes`] lists them.
fn order_of(prefix: &IpNet) -> (bool, IpAddr, u8) {
    (prefix.addr().is_ipv6(), prefix.addr(), prefix.prefix_len())
}

/// What covers every address that nothing else does.
fn default_routes() -> [(IpNet, IdentityId); 2] {
    [
        (IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0), IdentityId::WORLD_V4),
        (IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0), IdentityId::WORLD_V6),
    ]
}

/// The reserved identity of an address outside the cluster, if no prefix gave it another.
fn world(address: IpAddr, id: IdentityId) -> IdentityId {
    match (id, address) {
        (IdentityId::UNKNOWN, IpAddr::V4(_)) => IdentityId::WORLD_V4,
        (IdentityId::UNKNOWN, IpAddr::V6(_)) => IdentityId::WORLD_V6,
        (id, _) => id,
    }
}

fn describe(endpoint: &Endpoint) -> String {
    let host = if endpoint.host_network { "host-networked " } else { "" };
    format!("{host}endpoint {}", endpoint.key())
}

/// Refuses a cluster state that contradicts itself.
fn check(cluster: &ClusterState) -> Result<(), Error> {
    fn unique<'a>(
        kind: &'static str,
        names: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<(), Error> {
        let mut seen = AHashSet::new();
        for (namespace, name) in names {
            if !seen.insert((namespace, name)) {
                let slash = if namespace.is_empty() { "" } else { "/" };
                return Err(Error::Duplicate { kind, name: format!("{namespace}{slash}{name}") });
            }
        }
        Ok(())
    }
    unique("namespace", cluster.namespaces.iter().map(|n| ("", &*n.name)))?;
    unique("node", cluster.nodes.iter().map(|n| ("", &*n.name)))?;
    let accounts = cluster.service_accounts.iter();
    unique("service account", accounts.map(|a| (&*a.namespace, &*a.name)))?;
    unique("endpoint", cluster.endpoints.iter().map(|e| (&*e.namespace, &*e.name)))?;

    let mut nodes: AHashMap<IpAddr, &str> = AHashMap::new();
    for node in &cluster.nodes {
        for &address in &node.addresses {
            match nodes.insert(address, &node.name) {
                Some(first) if first != &*node.name => {
                    let [first, second] = [first, &node.name].map(|name| format!("node {name}"));
                    return Err(Error::AddressClash { address, first, second });
                }
                _ => {}
            }
        }
    }
    let mut hosts: AHashMap<IpAddr, &Endpoint> = AHashMap::new();
    for endpoint in cluster.endpoints.iter().filter(|e| e.host_network) {
        hosts.extend(endpoint.addresses.iter().map(|&a| (a, endpoint)));
    }
    let mut owners: AHashMap<IpAddr, &Endpoint> = AHashMap::new();
    for endpoint in cluster.endpoints.iter().filter(|e| !e.host_network) {
        for &address in &endpoint.addresses {
            let other = match owners.insert(address, endpoint) {
                Some(first) if !std::ptr::eq(first, endpoint) => Some(describe(first)),
                _ => nodes
                    .get(&address)
                    .map(|name| format!("node {name}"))
                    .or_else(|| hosts.get(&address).map(|host| describe(host))),
            };
            if let Some(first) = other {
                return Err(Error::AddressClash { address, first, second: describe(endpoint) });
            }
        }
    }
    Ok(())
}
