//! Who claims an address, and the identity that the claims make.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::Registry;
use super::check::describe;
use crate::IdentityId;
use crate::endpoint::{Endpoint, EndpointName, Node, ServiceAccount};
use crate::identity::{Added, Class, NodeNumber, Owner, PodNumber, Workload};

impl Registry {
    pub(super) fn claim_endpoint(
        &mut self,
        endpoint: &Arc<Endpoint>,
        stale: &mut BTreeSet<IpAddr>,
    ) {
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

    pub(super) fn unclaim_endpoint(&mut self, endpoint: &Endpoint, stale: &mut BTreeSet<IpAddr>) {
        for &address in &endpoint.addresses {
            if endpoint.host_network {
                self.unclaim_host(address, endpoint.node.as_deref());
            } else if let Some(claim) = self.claims.get_mut(&address) {
                claim.pod = None;
            }
            stale.insert(address);
        }
    }

    pub(super) fn claim_node(&mut self, node: &Node, stale: &mut BTreeSet<IpAddr>) {
        let (_, name) = self.node_number(&node.name);
        for &address in &node.addresses {
            self.claims.entry(address).or_default().hosts.push(name.clone());
            stale.insert(address);
        }
    }

    pub(super) fn unclaim_node(&mut self, node: &Node, stale: &mut BTreeSet<IpAddr>) {
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
    pub(super) fn refresh(&mut self, address: IpAddr) {
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
            self.pending.table.push((address.into(), self.host(address)));
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
    pub(super) fn other_host(&self, name: &EndpointName, address: IpAddr) -> Option<String> {
        let node = self.nodes.values().find(|n| n.addresses.contains(&address));
        let endpoint = || {
            self.endpoints
                .values()
                .find(|e| e.host_network && e.key() != *name && e.addresses.contains(&address))
        };
        node.map(|n| format!("node {}", n.name)).or_else(|| endpoint().map(|e| describe(e)))
    }

    pub(super) fn acquire(
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

    pub(super) fn release(&mut self, id: IdentityId) {
        if !id.is_dynamic() {
            return;
        }
        if let Some(gone) = self.interner.release(id) {
            self.pending.identities.insert(id);
            self.pending.released.push(id);
            self.pending.classes.extend(gone.class);
        }
    }
}
