//! All addresses there are, grouped by what one or two views see of them: every address is in one
//! class of the atlas, and any two addresses of a class are the same to every view.
//!
//! The two exemptions of every policy (a pod reaches itself, a node its own pods) concern pairs of
//! addresses, not classes; the atlas lists those pairs.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ahash::{AHashMap, AHashSet};
use ipnet::IpNet;
use portcullis_identity_table::identity::{ClassId, Owner};
use portcullis_identity_table::region::Regions;

use crate::view::View;

/// Addresses that are the same to every view.
#[derive(Clone, Debug)]
pub(crate) struct AddressClass {
    /// The class in each view.
    pub(crate) ids: Vec<ClassId>,
    /// Addresses of pods and nodes, ascending.
    pub(crate) hosts: Vec<IpAddr>,
    /// Prefixes of the outside world, the first few.
    pub(crate) prefixes: Vec<IpNet>,
    /// How many more there are.
    pub(crate) more_prefixes: usize,
    /// An address of the outside world, if the class has one.
    pub(crate) outside: Option<IpAddr>,
}

impl AddressClass {
    /// Some addresses of the class: all of its hosts, and one of the outside.
    pub(crate) fn members(&self) -> impl Iterator<Item = IpAddr> {
        self.hosts.iter().copied().chain(self.outside)
    }

    pub(crate) fn is_v4(&self) -> bool {
        self.members().next().is_some_and(|address| address.is_ipv4())
    }
}

/// See the [module](self).
pub(crate) struct Atlas<'v> {
    views: &'v [View<'v>],
    pub(crate) classes: Vec<AddressClass>,
    by_host: AHashMap<IpAddr, usize>,
}

/// Prefixes that are kept of a class, for people.
const FEW: usize = 4;

impl<'v> Atlas<'v> {
    pub(crate) fn new(views: &'v [View<'v>], regions: &Regions) -> Self {
        let mut this = Self { views, classes: Vec::new(), by_host: AHashMap::default() };
        let mut index: AHashMap<(bool, Vec<ClassId>), usize> = AHashMap::default();
        let hosts: BTreeSet<IpAddr> = views
            .iter()
            .flat_map(|view| view.registry.table())
            .filter_map(|(prefix, id)| {
                let is_host = prefix.prefix_len() == prefix.max_prefix_len();
                is_host.then(|| (prefix.addr(), id))
            })
            .filter(|(address, _)| views.iter().any(|view| !is_outside(view, *address)))
            .map(|(address, _)| address)
            .collect();
        for &address in &hosts {
            let class = this.class_of(address, &mut index);
            this.classes[class].hosts.push(address);
            this.by_host.insert(address, class);
        }
        for (prefix, gap) in gaps(regions, &hosts) {
            let class = this.class_of(gap, &mut index);
            let class = &mut this.classes[class];
            class.outside.get_or_insert(gap);
            if class.prefixes.len() < FEW {
                class.prefixes.push(prefix);
            } else {
                class.more_prefixes += 1;
            }
        }
        this
    }

    fn class_of(
        &mut self,
        address: IpAddr,
        index: &mut AHashMap<(bool, Vec<ClassId>), usize>,
    ) -> usize {
        let ids: Vec<ClassId> = self.views.iter().map(|view| view.class_id(address)).collect();
        *index.entry((address.is_ipv4(), ids.clone())).or_insert_with(|| {
            self.classes.push(AddressClass {
                ids,
                hosts: Vec::new(),
                prefixes: Vec::new(),
                more_prefixes: 0,
                outside: None,
            });
            self.classes.len() - 1
        })
    }

    /// Whether pods and nodes have addresses of both families.
    pub(crate) fn is_dual_stack(&self) -> bool {
        let has = |v4: bool| self.by_host.keys().any(|address| address.is_ipv4() == v4);
        has(true) && has(false)
    }

    /// The class of a pod's or node's address.
    pub(crate) fn host(&self, address: IpAddr) -> Option<usize> {
        self.by_host.get(&address).copied()
    }

    /// Source and destination addresses that a view exempts from every policy.
    pub(crate) fn exempt(&self, view: &View<'_>) -> AHashSet<(IpAddr, IpAddr)> {
        let mut by_node: AHashMap<&str, Vec<IpAddr>> = AHashMap::default();
        for address in self.by_host.keys() {
            if let Some(identity) = view.identity(*address)
                && let Owner::Node { name, .. } = &identity.class.owner
            {
                by_node.entry(name).or_default().push(*address);
            }
        }
        let mut pairs = AHashSet::default();
        for &destination in self.by_host.keys() {
            let Some(pod) = view.registry.owner(destination) else { continue };
            let of_node = pod.node.as_deref().and_then(|node| by_node.get(node));
            for &source in pod.addresses.iter().chain(of_node.into_iter().flatten()) {
                if source.is_ipv4() == destination.is_ipv4() {
                    pairs.insert((source, destination));
                }
            }
        }
        pairs
    }

    /// A source and a destination of two classes that no view exempts, if there are such.
    pub(crate) fn ordinary_pair(
        &self,
        source: &AddressClass,
        destination: &AddressClass,
        exempt: &[AHashSet<(IpAddr, IpAddr)>],
    ) -> Option<(IpAddr, IpAddr)> {
        destination
            .members()
            .flat_map(|d| source.members().map(move |s| (s, d)))
            .find(|pair| !exempt.iter().any(|pairs| pairs.contains(pair)))
    }
}

fn is_outside(view: &View<'_>, address: IpAddr) -> bool {
    view.identity(address).is_none_or(|identity| identity.class.owner == Owner::World)
}

/// For each prefix, and for each family as a whole, an address in it that is in no smaller prefix and
/// is no host; prefixes without such an address are left out.
fn gaps(regions: &Regions, hosts: &BTreeSet<IpAddr>) -> Vec<(IpNet, IpAddr)> {
    let everything = [
        IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
        IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
    ];
    let mut prefixes: Vec<IpNet> =
        everything.into_iter().chain(regions.prefixes().map(|(prefix, _)| prefix)).collect();
    prefixes.sort_by_key(|p| (p.addr().is_ipv6(), number(p.network()), p.prefix_len()));
    prefixes.dedup();
    let mut found = Vec::new();
    // Prefixes around the current one, with the first address that is not yet known to be taken.
    let mut around: Vec<(IpNet, Option<u128>)> = Vec::new();
    let mut close = |(prefix, cursor): (IpNet, Option<u128>), until: u128| {
        if let Some(cursor) = cursor
            && let Some(free) = first_free(cursor, until, prefix.addr().is_ipv4(), hosts)
        {
            found.push((prefix, free));
            return true;
        }
        false
    };
    for prefix in prefixes {
        while let Some(last) = around.last()
            && !last.0.contains(&prefix)
        {
            let last = around.pop().expect("there is a last");
            close(last, number(last.0.broadcast()));
        }
        if let Some(parent) = around.last_mut() {
            let before = number(prefix.network()).checked_sub(1);
            // One gap a prefix is enough.
            if let (Some(cursor), Some(before)) = (parent.1, before)
                && cursor <= before
                && close(*parent, before)
            {
                parent.1 = None;
            } else if parent.1.is_some() {
                parent.1 = number(prefix.broadcast()).checked_add(1);
            }
        }
        around.push((prefix, Some(number(prefix.network()))));
    }
    while let Some(last) = around.pop() {
        close(last, number(last.0.broadcast()));
    }
    found
}

fn first_free(from: u128, to: u128, v4: bool, hosts: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    (from..=to)
        .take(hosts.len() + 1)
        .map(|n| {
            if v4 {
                IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(n).unwrap_or(u32::MAX)))
            } else {
                IpAddr::V6(Ipv6Addr::from_bits(n))
            }
        })
        .find(|address| !hosts.contains(address))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => a.to_bits().into(),
        IpAddr::V6(a) => a.to_bits(),
    }
}
