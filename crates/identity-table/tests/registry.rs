//! The registry against a twin that looks at everything anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_identity_table::endpoint::{
    ClusterState, Endpoint, EndpointName, NamedPort, Namespace, Node, ServiceAccount,
};
use portcullis_identity_table::identity::{Identity, Owner};
use portcullis_identity_table::region::{Regions, SourceId};
use portcullis_identity_table::registry::{Error, Registry};
use portcullis_identity_table::{Generation, IdentityId, Labels};
use proptest::prelude::*;

/// The table that the deltas make.
#[derive(Default)]
struct Table(BTreeMap<IpNet, IdentityId>);

impl Table {
    fn apply(&mut self, changes: &[(IpNet, Option<IdentityId>)]) {
        for &(prefix, id) in changes {
            match id {
                Some(id) => self.0.insert(prefix, id),
                None => self.0.remove(&prefix),
            };
        }
    }

    fn lookup(&self, address: IpAddr) -> IdentityId {
        let covering = self.0.iter().filter(|(p, _)| p.contains(&address));
        covering.max_by_key(|(p, _)| p.prefix_len()).map_or(IdentityId::UNKNOWN, |(_, id)| *id)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Upsert(Endpoint),
    Remove(u8),
    Regions(Vec<(IpNet, u32)>),
    Cluster(ClusterState),
    Commit,
    Reclaim,
}

fn address(n: u8) -> IpAddr {
    if n < 12 {
        IpAddr::from([10, 0, n / 4, n])
    } else {
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n.into()])
    }
}

fn any_labels() -> impl Strategy<Value = Labels> {
    prop::collection::vec(
        (prop::sample::select(vec!["a", "b"]), prop::sample::select(vec!["1", "2"])),
        0..2,
    )
    .prop_map(|pairs| pairs.into_iter().collect())
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let ports =
        prop::collection::vec(Just(NamedPort { name: "http".into(), protocol: 6, port: 80 }), 0..2);
    let addresses = prop::collection::vec((0..16u8).prop_map(address), 0..3);
    (0..8u8, any_labels(), prop::option::of(0..2u8), prop::bool::weighted(0.2), ports, addresses)
        .prop_map(|(name, labels, node, host_network, named_ports, addresses)| Endpoint {
            labels,
            node: node.map(|n| format!("n{n}").into()),
            host_network,
            named_ports,
            addresses,
            ..Endpoint::new(if name < 4 { "x" } else { "y" }, &format!("p{name}"))
        })
}

fn any_cluster() -> impl Strategy<Value = ClusterState> {
    (
        any_labels(),
        any_labels(),
        any_labels(),
        prop::collection::vec((0..16u8).prop_map(address), 0..2),
        prop::collection::vec(any_endpoint(), 0..6),
    )
        .prop_map(|(namespace, account, node, addresses, endpoints)| ClusterState {
            namespaces: vec![Namespace::new("x", namespace)],
            service_accounts: vec![ServiceAccount {
                namespace: "x".into(),
                name: "default".into(),
                labels: account,
            }],
            nodes: vec![Node { name: "n0".into(), labels: node, addresses }],
            endpoints,
        })
}

fn any_step() -> impl Strategy<Value = Step> {
    let prefix = (0..16u8, 0..=32u8).prop_map(|(n, length)| {
        let address = address(n);
        let length = if address.is_ipv6() { length * 4 } else { length };
        IpNet::new_assert(address, length).trunc()
    });
    prop_oneof![
        6 => any_endpoint().prop_map(Step::Upsert),
        2 => (0..8u8).prop_map(Step::Remove),
        1 => prop::collection::vec((prefix, 0..3u32), 0..6).prop_map(Step::Regions),
        1 => any_cluster().prop_map(Step::Cluster),
        2 => Just(Step::Commit),
        1 => Just(Step::Reclaim),
    ]
}

/// What tells identities apart, in words.
fn content(identity: &Identity) -> impl Eq + std::hash::Hash + std::fmt::Debug + use<> {
    let pod = identity.pod.as_ref().map(|(number, name)| (number.0, name.clone()));
    (identity.class.clone(), identity.node.clone().map(|(_, name)| name), pod)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 300 } else { 5000 }))]

    #[test]
    fn deltas_and_lookups_agree(steps in prop::collection::vec(any_step(), 1..40)) {
        let mut registry = Registry::new();
        let mut table = Table::default();
        let mut endpoints: HashMap<EndpointName, Endpoint> = HashMap::new();
        // Numbers seen, with the generation in which they were last alive.
        let mut contents = HashMap::new();
        let mut reclaimed = Generation::default();
        for step in steps {
            match step {
                Step::Upsert(endpoint) => {
                    if registry.upsert_endpoint(endpoint.clone()).is_ok() {
                        endpoints.insert(endpoint.key(), endpoint);
                    }
                }
                Step::Remove(n) => {
                    let name = Endpoint::new(if n < 4 { "x" } else { "y" }, &format!("p{n}")).key();
                    prop_assert_eq!(registry.remove_endpoint(&name), endpoints.remove(&name).is_some());
                }
                Step::Regions(prefixes) => registry.set_regions(Regions::build(
                    prefixes.into_iter().map(|(p, s)| (p, SourceId(s))),
                )),
                Step::Cluster(cluster) => {
                    if registry.replace_cluster(cluster.clone()).is_ok() {
                        endpoints = cluster.endpoints.into_iter().map(|e| (e.key(), e)).collect();
                    }
                }
                Step::Reclaim => {
                    reclaimed = registry.generation();
                    registry.reclaim(reclaimed);
                }
                Step::Commit => {
                    let delta = registry.commit();
                    table.apply(&delta.table);
                    // The deltas make the same table as the registry lists.
                    let mut listed = Table::default();
                    let all: Vec<_> = registry.table().map(|(p, id)| (p, Some(id))).collect();
                    listed.apply(&all);
                    prop_assert_eq!(&listed.0, &table.0);
                    // Everything alive is in use, everything in use is alive.
                    let used: BTreeSet<_> = table.0.values().copied().filter(|id| id.is_dynamic()).collect();
                    // A region may be hidden by endpoints on all of its addresses.
                    let hidden = |i: &Identity| i.class.owner == Owner::World;
                    let alive: BTreeSet<_> = registry.identities()
                        .filter(|i| used.contains(&i.id) || !hidden(i))
                        .map(|i| i.id)
                        .collect();
                    prop_assert_eq!(used, alive);
                    // No two numbers for one content, and no number given again too early.
                    let mut distinct = HashMap::new();
                    for identity in registry.identities() {
                        let other = distinct.insert(content(identity), identity.id);
                        prop_assert_eq!(other, None);
                        if let Some((old, last)) = contents.insert(identity.id, (content(identity), delta.generation)) {
                            prop_assert!(old == content(identity) || last <= reclaimed);
                        }
                        prop_assert_eq!(
                            registry.history().identity_at(identity.id, delta.generation), Some(identity));
                    }
                    // Every address is who its endpoint says.
                    for address in (0..16).map(address) {
                        let id = registry.lookup(address);
                        prop_assert_eq!(table.lookup(address), id);
                        let owner = endpoints.values().find(|e| !e.host_network && e.addresses.contains(&address));
                        prop_assert_eq!(registry.owner(address).map(|e| &**e), owner);
                        prop_assert_eq!(
                            registry.history().endpoint_at(address, delta.generation).map(|e| &**e), owner);
                        let class = registry.identity(id).map(|i| i.class.clone());
                        match (owner, class.as_ref().map(|c| &c.owner)) {
                            (Some(e), Some(Owner::Workload(w))) => {
                                prop_assert_eq!(&w.labels, &e.labels);
                                prop_assert_eq!(&w.namespace, &registry.namespace(&e.namespace));
                            }
                            (None, Some(Owner::Workload(_))) | (Some(_), _) => prop_assert!(false, "{address}"),
                            _ => {}
                        }
                    }
                }
            }
        }
    }
}

fn pod(name: &str, addresses: &[&str]) -> Endpoint {
    Endpoint {
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        ..Endpoint::new("default", name)
    }
}

#[test]
fn an_address_has_one_owner() {
    let mut registry = Registry::new();
    registry.upsert_endpoint(pod("a", &["10.0.0.1", "fd00::1"])).unwrap();
    let error = registry.upsert_endpoint(pod("b", &["10.0.0.2", "fd00::1"])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "address fd00::1 is claimed by endpoint default/a and by endpoint default/b; \
         an address has one owner"
    );
    assert_eq!(registry.lookup("10.0.0.2".parse().unwrap()), IdentityId::WORLD_V4);

    let node = Node {
        name: "n".into(),
        labels: Labels::default(),
        addresses: vec!["10.0.0.1".parse().unwrap()],
    };
    let clash = ClusterState {
        nodes: vec![node],
        endpoints: vec![pod("a", &["10.0.0.1"])],
        ..ClusterState::default()
    };
    assert!(matches!(registry.replace_cluster(clash), Err(Error::AddressClash { .. })));
    let twice =
        ClusterState { endpoints: vec![pod("a", &[]), pod("a", &[])], ..ClusterState::default() };
    assert!(matches!(registry.replace_cluster(twice), Err(Error::Duplicate { .. })));
    assert!(registry.owner("fd00::1".parse().unwrap()).is_some());
}

#[test]
fn a_pod_with_two_addresses_of_a_family_has_identities_of_its_own() {
    let mut registry = Registry::new();
    registry.upsert_endpoint(pod("a", &["10.0.0.1", "10.0.0.2", "fd00::1"])).unwrap();
    registry.upsert_endpoint(pod("b", &["10.0.0.3", "fd00::3"])).unwrap();
    registry.upsert_endpoint(pod("c", &["10.0.0.4", "fd00::4"])).unwrap();
    let id = |a: &str| registry.lookup(a.parse().unwrap());
    assert_eq!(id("10.0.0.1"), id("10.0.0.2"));
    assert_ne!(id("10.0.0.1"), id("10.0.0.3"));
    assert_eq!(id("10.0.0.3"), id("10.0.0.4"));
    assert!(registry.identity(id("fd00::1")).unwrap().pod.is_some());
    assert_eq!(registry.classes().count(), 2, "the world and one workload class");
}

#[test]
fn labels_as_they_were() {
    let mut registry = Registry::new();
    registry.upsert_endpoint(pod("a", &["10.0.0.1"])).unwrap();
    let before = registry.commit().generation;
    let address = "10.0.0.1".parse().unwrap();
    let id = registry.lookup(address);
    registry.remove_endpoint(&pod("a", &[]).key());
    registry.upsert_endpoint(pod("b", &["10.0.0.1"])).unwrap();
    let after = registry.commit().generation;
    let name = |generation| registry.history().endpoint_at(address, generation).map(|e| &*e.name);
    assert_eq!(name(before), Some("a"));
    assert_eq!(name(after), Some("b"));
    assert!(registry.history().identity_at(id, before).is_some());
    registry.reclaim(after);
    assert!(registry.history().endpoint_at(address, before).is_none());
    assert!(registry.history().endpoint_at(address, after).is_some());
}
