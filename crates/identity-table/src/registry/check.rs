//! Clusters that contradict themselves are refused.

use std::net::IpAddr;

use ahash::{AHashMap, AHashSet};

use super::Error;
use crate::endpoint::{ClusterState, Endpoint};

pub(super) fn describe(endpoint: &Endpoint) -> String {
    let host = if endpoint.host_network { "host-networked " } else { "" };
    format!("{host}endpoint {}", endpoint.key())
}

/// Refuses a cluster state that contradicts itself.
pub(super) fn check(cluster: &ClusterState) -> Result<(), Error> {
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
