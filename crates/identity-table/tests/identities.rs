//! What the registry promises of identities, one sentence a test.

use std::net::IpAddr;

use portcullis_identity_table::endpoint::{
    ClusterState, Endpoint, Namespace, Node, ServiceAccount,
};
use portcullis_identity_table::identity::Owner;
use portcullis_identity_table::registry::{Error, Registry};
use portcullis_identity_table::{IdentityId, Labels};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pod(name: &str, addresses: &[&str]) -> Endpoint {
    Endpoint {
        addresses: addresses.iter().map(|a| address(a)).collect(),
        ..Endpoint::new("shop", name)
    }
}

fn labelled(name: &str, at: &str, value: &str) -> Endpoint {
    Endpoint { labels: [("version", value)].into_iter().collect(), ..pod(name, &[at]) }
}

fn host(name: &str, node: &str, at: &str) -> Endpoint {
    Endpoint { host_network: true, node: Some(node.into()), ..pod(name, &[at]) }
}

fn at(registry: &Registry, text: &str) -> IdentityId {
    registry.lookup(address(text))
}

#[test]
fn reserved_identities_are_constants_and_cover_what_nobody_owns() {
    let constants = [
        IdentityId::UNKNOWN,
        IdentityId::HOST,
        IdentityId::OWN_NODE,
        IdentityId::WORLD_V4,
        IdentityId::WORLD_V6,
    ];
    assert_eq!(constants.map(IdentityId::get), [0, 1, 2, 3, 4]);
    assert!(constants.iter().all(|id| !id.is_dynamic()));
    assert!(IdentityId::new(u32::MAX).is_dynamic(), "up to the last number");
    let registry = Registry::new();
    assert_eq!(at(&registry, "192.0.2.1"), IdentityId::WORLD_V4);
    assert_eq!(at(&registry, "2001:db8::1"), IdentityId::WORLD_V6);
}

#[test]
fn an_endpoint_has_any_number_of_addresses_of_both_families() {
    let four: Vec<String> = (1..=40).map(|n| format!("10.0.0.{n}")).collect();
    let six: Vec<String> = (1..=40).map(|n| format!("fd00::{n}")).collect();
    let all: Vec<&str> = four.iter().chain(&six).map(String::as_str).collect();
    let mut registry = Registry::new();
    registry.upsert_endpoint(pod("many", &all)).unwrap();
    let id = at(&registry, all[0]);
    assert!(id.is_dynamic() && all.iter().all(|a| at(&registry, a) == id));
    // Fewer of them, then none.
    registry.upsert_endpoint(pod("many", &all[..3])).unwrap();
    assert_eq!(at(&registry, all[3]), IdentityId::WORLD_V4);
    assert_eq!(at(&registry, "fd00::1"), IdentityId::WORLD_V6);
    registry.upsert_endpoint(pod("many", &[])).unwrap();
    assert_eq!(at(&registry, all[0]), IdentityId::WORLD_V4);
    assert_eq!(registry.endpoints().count(), 1, "an endpoint without address is one still");
}

#[test]
fn replicas_share_an_identity_until_the_last_is_gone() {
    let mut registry = Registry::new();
    let name = |n: u32| (format!("web-{n}"), format!("10.0.{}.{}", n / 250, n % 250 + 1));
    for n in 0..1000 {
        let (name, address) = name(n);
        registry.upsert_endpoint(labelled(&name, &address, "1")).unwrap();
    }
    let first = registry.commit();
    assert_eq!((first.identities.len(), first.classes.len()), (1, 1));
    let id = at(&registry, "10.0.0.1");
    for n in 0..999 {
        assert!(registry.remove_endpoint(&pod(&name(n).0, &[]).key()));
    }
    assert!(registry.commit().is_table_only() && registry.identity(id).is_some());
    registry.remove_endpoint(&pod("web-999", &[]).key());
    assert_eq!(registry.commit().identities, [id]);
    assert!(registry.identity(id).is_none());
}

#[test]
fn a_number_is_not_given_again_before_its_readers_are_gone() {
    let mut registry = Registry::new();
    let turn = |registry: &mut Registry, value: &str| {
        registry.upsert_endpoint(labelled("a", "10.0.0.1", value)).unwrap();
        (at(registry, "10.0.0.1"), registry.commit().generation)
    };
    let (first, generation) = turn(&mut registry, "1");
    let mut seen = vec![first];
    // A reader stays in the generation of the first: no number comes back, however many go.
    for n in 2..50 {
        registry.reclaim(generation);
        let (id, _) = turn(&mut registry, &n.to_string());
        assert!(!seen.contains(&id), "{id} is in use or was a moment ago");
        seen.push(id);
    }
    // It leaves; what was gone by the generation that is the oldest now may come back.
    let oldest = registry.generation();
    registry.reclaim(oldest);
    let (id, _) = turn(&mut registry, "50");
    assert!(seen.contains(&id) && Some(&id) != seen.last(), "{id}");
}

#[test]
fn the_side_table_gives_endpoint_and_labels_as_they_were() {
    let mut registry = Registry::new();
    let mut past = Vec::new();
    for (name, value) in [("a", "1"), ("a", "2"), ("b", "2"), ("b", "3")] {
        if name == "b" {
            registry.remove_endpoint(&pod("a", &[]).key());
        }
        registry.upsert_endpoint(labelled(name, "10.0.0.1", value)).unwrap();
        let generation = registry.commit().generation;
        past.push((generation, at(&registry, "10.0.0.1"), name, value));
    }
    registry.remove_endpoint(&pod("b", &[]).key());
    let gone = registry.commit().generation;
    let check = |registry: &Registry, known: usize| {
        for (i, (generation, id, name, value)) in past.iter().enumerate() {
            let history = registry.history();
            let endpoint = history.endpoint_at(address("10.0.0.1"), *generation);
            let identity = history.identity_at(*id, *generation);
            assert_eq!(endpoint.is_some(), i >= known, "{i}");
            assert_eq!(identity.is_some(), i >= known, "{i}");
            let (Some(endpoint), Some(identity)) = (endpoint, identity) else { continue };
            assert_eq!((&*endpoint.name, endpoint.labels.value("version")), (*name, Some(*value)));
            let Owner::Workload(workload) = &identity.class.owner else { panic!("{identity:?}") };
            assert_eq!(workload.labels.value("version"), Some(*value));
        }
        assert!(registry.history().endpoint_at(address("10.0.0.1"), gone).is_none());
    };
    check(&registry, 0);
    // What a reader may still ask for stays.
    registry.reclaim(past[3].0);
    check(&registry, 3);
}

#[test]
fn host_networked_endpoints_are_their_node() {
    let mut registry = Registry::new();
    let node = Node {
        name: "n1".into(),
        labels: [("zone", "a")].into_iter().collect(),
        addresses: vec![address("10.0.0.1"), address("fd00::1")],
    };
    let cluster = ClusterState {
        nodes: vec![node],
        endpoints: vec![host("proxy", "n1", "10.0.0.1"), host("agent", "n1", "10.0.0.1")],
        ..ClusterState::default()
    };
    registry.replace_cluster(cluster).unwrap();
    let identity = registry.identity(at(&registry, "10.0.0.1")).unwrap();
    let Owner::Node { name, labels } = &identity.class.owner else { panic!("{identity:?}") };
    assert_eq!((&**name, labels.value("zone")), ("n1", Some("a")));
    assert_eq!(at(&registry, "10.0.0.1"), at(&registry, "fd00::1"));
    assert!(registry.owner(address("10.0.0.1")).is_none(), "no pod owns it");
    // A pod of its own cannot have the address; who was there keeps it.
    let error = registry.upsert_endpoint(pod("thief", &["10.0.0.1"])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "address 10.0.0.1 is claimed by node n1 and by endpoint shop/thief; an address has one owner"
    );
    assert!(registry.endpoint(&pod("thief", &[]).key()).is_none());
}

#[test]
fn a_refused_claim_changes_nothing_and_the_winner_does_not_flap() {
    let mut registry = Registry::new();
    registry.upsert_endpoint(labelled("a", "10.0.0.1", "1")).unwrap();
    registry.upsert_endpoint(labelled("b", "10.0.0.2", "2")).unwrap();
    registry.commit();
    let before = (at(&registry, "10.0.0.1"), at(&registry, "10.0.0.2"));
    for _ in 0..3 {
        let both = Endpoint {
            labels: [("version", "3")].into_iter().collect(),
            ..pod("b", &["10.0.0.3", "10.0.0.1"])
        };
        assert!(matches!(registry.upsert_endpoint(both), Err(Error::AddressClash { .. })));
        let delta = registry.commit();
        assert!(delta.table.is_empty() && delta.is_table_only());
        assert_eq!((at(&registry, "10.0.0.1"), at(&registry, "10.0.0.2")), before);
        assert_eq!(at(&registry, "10.0.0.3"), IdentityId::WORLD_V4);
    }
    // The owner goes: the address is free.
    registry.remove_endpoint(&pod("a", &[]).key());
    registry.upsert_endpoint(pod("b", &["10.0.0.1"])).unwrap();
    assert_eq!(&*registry.owner(address("10.0.0.1")).unwrap().name, "b");
}

#[test]
fn a_name_stands_once_for_each_kind() {
    let refused = |cluster: ClusterState| {
        let mut registry = Registry::new();
        let error = registry.replace_cluster(cluster).unwrap_err();
        assert_eq!(registry.cluster().endpoints.len(), 0, "nothing was applied");
        error.to_string()
    };
    let none = Labels::default;
    let namespaces = vec![Namespace::new("shop", none()), Namespace::new("shop", none())];
    let node = Node { name: "n1".into(), labels: none(), addresses: vec![] };
    let account = ServiceAccount { namespace: "shop".into(), name: "till".into(), labels: none() };
    let endpoints = vec![pod("web", &["10.0.0.1"]), pod("web", &["10.0.0.2"])];
    let empty = ClusterState::default;
    let said = [
        refused(ClusterState { namespaces, ..empty() }),
        refused(ClusterState { nodes: vec![node.clone(), node], ..empty() }),
        refused(ClusterState { service_accounts: vec![account.clone(), account], ..empty() }),
        refused(ClusterState { endpoints, ..empty() }),
    ];
    let twice = |what: &str| format!("{what} stands twice in the cluster state");
    let names = ["namespace shop", "node n1", "service account shop/till", "endpoint shop/web"];
    assert_eq!(said, names.map(twice));
}
