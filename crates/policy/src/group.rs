//! Classes of addresses as people name them: workloads by namespace, nodes, prefixes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::IpNet;
use portcullis_identity_table::identity::Owner;

use crate::atlas::{AddressClass, Atlas};
use crate::view::View;

/// A group of parties: pods by namespace, nodes, and prefixes of the outside world. Its
/// [`Display`](fmt::Display) is short: a namespace all of whose pods are in the group is named once.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// Pods, and whether they are all of their namespace.
    pub pods: BTreeMap<Box<str>, NamespaceGroup>,
    /// Names of nodes.
    pub nodes: BTreeSet<Box<str>>,
    /// Prefixes, each without what lies in smaller prefixes and without pods and nodes; `0.0.0.0/0`
    /// and `::/0` are all that nothing else names.
    pub prefixes: BTreeSet<IpNet>,
    /// Prefixes that are not listed.
    pub more_prefixes: usize,
}

/// Pods of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamespaceGroup {
    /// Names of the pods.
    pub names: BTreeSet<Box<str>>,
    /// How many pods the namespace has.
    pub of: usize,
}

/// Pods that are named before the rest is counted.
const FEW: usize = 4;

impl Group {
    pub(crate) fn of<'c>(
        classes: impl IntoIterator<Item = &'c AddressClass>,
        views: &[View<'_>],
        census: &Census,
    ) -> Self {
        let mut group = Self::default();
        for class in classes {
            for &address in &class.hosts {
                group.add_host(address, views, census);
            }
            group.prefixes.extend(&class.prefixes);
            group.more_prefixes += class.more_prefixes;
        }
        group
    }

    pub(crate) fn add_host(
        &mut self,
        address: std::net::IpAddr,
        views: &[View<'_>],
        census: &Census,
    ) {
        // The newest view knows best; a pod that is gone is known to the older one.
        for view in views.iter().rev() {
            if let Some(pod) = view.registry.owner(address) {
                let of = census.pods.get(&pod.namespace).map_or(0, BTreeSet::len);
                let entry = self.pods.entry(pod.namespace.clone()).or_default();
                entry.of = of;
                entry.names.insert(pod.name.clone());
                return;
            }
            if let Some(identity) = view.identity(address)
                && let Owner::Node { name, .. } = &identity.class.owner
            {
                self.nodes.insert((**name).into());
                return;
            }
        }
        self.prefixes.insert(address.into());
    }
}

/// The pods of every namespace.
#[derive(Debug, Default)]
pub(crate) struct Census {
    pods: BTreeMap<Box<str>, BTreeSet<Box<str>>>,
}

impl Census {
    pub(crate) fn of(atlas: &Atlas<'_>, views: &[View<'_>]) -> Self {
        let mut census = Self::default();
        for address in atlas.classes.iter().flat_map(|class| &class.hosts) {
            if let Some(pod) = views.iter().rev().find_map(|view| view.registry.owner(*address)) {
                let names = census.pods.entry(pod.namespace.clone()).or_default();
                names.insert(pod.name.clone());
            }
        }
        census
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = Vec::new();
        for (namespace, group) in &self.pods {
            let count = group.names.len();
            if count > 1 && count == group.of {
                words.push(format!("{namespace}/* (all {count} pods)"));
                continue;
            }
            let mut text: Vec<String> =
                group.names.iter().take(FEW).map(|name| format!("{namespace}/{name}")).collect();
            if count > FEW {
                text.push(format!("{} more pods of {namespace}", count - FEW));
            }
            words.append(&mut text);
        }
        words.extend(self.nodes.iter().take(FEW).map(|node| format!("node {node}")));
        if self.nodes.len() > FEW {
            words.push(format!("{} more nodes", self.nodes.len() - FEW));
        }
        for prefix in self.prefixes.iter().take(FEW) {
            words.push(match (prefix.prefix_len(), prefix) {
                (0, IpNet::V4(_)) => "the outside (IPv4)".to_owned(),
                (0, IpNet::V6(_)) => "the outside (IPv6)".to_owned(),
                _ => prefix.to_string(),
            });
        }
        let more = self.more_prefixes + self.prefixes.len().saturating_sub(FEW);
        if more > 0 {
            words.push(format!("{more} more prefixes"));
        }
        f.write_str(&words.join(", "))
    }
}
