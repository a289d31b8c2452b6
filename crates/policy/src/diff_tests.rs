//! The difference holds exactly the flows that the judge decides otherwise.

use std::path::Path;

use super::*;
use crate::judge::Judge;
use crate::model::Action;
use crate::{load_cluster, load_policies};

/// What happens to a set so that it differs.
fn mutations(set: &PolicySet) -> Vec<PolicySet> {
    let mut all = vec![PolicySet::default(), set.clone()];
    for (t, tier) in set.tiers.iter().enumerate() {
        let mut flipped = set.clone();
        flipped.tiers[t].default_action = match tier.default_action {
            TierDefault::Deny => TierDefault::Pass,
            TierDefault::Pass => TierDefault::Deny,
        };
        all.push(flipped);
        for (p, policy) in tier.policies.iter().enumerate() {
            let mut without = set.clone();
            without.tiers[t].policies.remove(p);
            all.push(without);
            if policy.ingress.as_ref().is_some_and(|rules| !rules.is_empty()) {
                let mut other = set.clone();
                let rules = other.tiers[t].policies[p].ingress.as_mut().unwrap();
                rules[0].action = match rules[0].action {
                    Action::Deny => Action::Allow,
                    _ => Action::Deny,
                };
                all.push(other);
                let mut fewer = set.clone();
                fewer.tiers[t].policies[p].ingress.as_mut().unwrap().pop();
                all.push(fewer);
            }
        }
    }
    all
}

impl Comparison<'_> {
    fn says_changed(&self, flow: &Flow) -> bool {
        let pair = (flow.source, flow.destination);
        let class = |address: IpAddr| {
            self.atlas.host(address).unwrap_or_else(|| {
                let ids: Vec<_> = self.views.iter().map(|v| v.class_id(address)).collect();
                let same = |c: &AddressClass| c.ids == ids && c.is_v4() == address.is_ipv4();
                self.atlas.classes.iter().position(same).expect("every address has a class")
            })
        };
        let (s, d) = (class(pair.0), class(pair.1));
        let exempt = [self.exempt[0].contains(&pair), self.exempt[1].contains(&pair)];
        let regions = match exempt {
            [true, true] => return false,
            [false, false] if !self.may_change(s, d) => return false,
            [false, false] => self.changed_regions(s, d),
            _ => self.compare(&self.atlas.classes[s], &self.atlas.classes[d], exempt),
        };
        regions.iter().any(|(regions, ..)| regions.iter().any(|r| r.contains(&flow.header)))
    }
}

/// Flows between all hosts of the clusters and some outside, on ports that policies like.
fn flows(clusters: [&ClusterState; 2], seed: &mut u64) -> Vec<Flow> {
    let mut addresses: Vec<IpAddr> = clusters
        .iter()
        .flat_map(|c| {
            let pods = c.endpoints.iter().flat_map(|e| e.addresses.clone());
            pods.chain(c.nodes.iter().flat_map(|n| n.addresses.clone())).take(12)
        })
        .collect();
    addresses.extend(
        ["8.8.8.8", "203.0.113.9", "10.0.2.77", "fd00:2::99"].map(|a| a.parse::<IpAddr>().unwrap()),
    );
    let mut next = |below: usize| {
        *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*seed >> 33) as usize % below
    };
    let ports = [0, 22, 53, 80, 81, 443, 3868, 8005, 8080, 40000];
    let mut flows = Vec::new();
    for s in &addresses {
        for d in &addresses {
            if s.is_ipv4() != d.is_ipv4() {
                continue;
            }
            for _ in 0..3 {
                let protocol = [6, 6, 17, 132, 1, 58, 47][next(7)];
                let ports = match protocol {
                    47 => (0, 0),
                    1 | 58 => (next(12) as u16, next(3) as u16),
                    _ => (40000, ports[next(ports.len())]),
                };
                flows.push(Flow::new(*s, *d, protocol, ports));
            }
        }
    }
    flows
}

fn agrees(
    old: (&ClusterState, &PolicySet),
    new: (&ClusterState, &PolicySet),
    seed: &mut u64,
) -> usize {
    let sources = Sources::of(&[old.1, new.1]);
    let regions = sources.regions();
    let views = [
        View::new(old.0, old.1, &sources, 0, regions.clone()).unwrap(),
        View::new(new.0, new.1, &sources, 1, regions.clone()).unwrap(),
    ];
    let atlas = Atlas::new(&views, &regions);
    let comparison = Comparison::new(&views, &atlas, &sources, old.0 != new.0);
    let judges = [Judge::new(old.0, old.1), Judge::new(new.0, new.1)];
    let mut changed = 0;
    for flow in flows([old.0, new.0], seed) {
        let differs = judges[0].judge(&flow).verdict != judges[1].judge(&flow).verdict;
        assert_eq!(comparison.says_changed(&flow), differs, "{flow}");
        changed += usize::from(differs);
    }
    for change in comparison.changes() {
        let verdict = |side: usize| judges[side].judge(&change.example).verdict;
        assert_eq!(verdict(0), change.from.verdict, "{}", change.example);
        assert_eq!(verdict(1), change.to.verdict, "{}", change.example);
        assert_ne!(change.from.verdict, change.to.verdict);
    }
    changed
}

#[test]
fn policies_that_differ() {
    let mut seed = 1;
    let mut changed = 0;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    for entry in std::fs::read_dir(folder).unwrap() {
        let case = entry.unwrap().path();
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let skip =
            name.starts_with("invalid") || name.starts_with("conf-") || name.starts_with("e2e");
        if skip {
            continue;
        }
        let set = load_policies([case.join("policies.yaml")]).unwrap().value;
        let cluster = load_cluster(case.join("cluster.yaml")).unwrap().value;
        for other in mutations(&set) {
            changed += agrees((&cluster, &set), (&cluster, &other), &mut seed);
        }
        assert!(diff((&cluster, &set), (&cluster, &set)).unwrap().changes.is_empty());
    }
    assert!(changed > 1000, "{changed}");
}

#[test]
fn clusters_that_differ() {
    let mut seed = 7;
    let mut changed = 0;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let load = |case: &str| {
        let set = load_policies([folder.join(case).join("policies.yaml")]).unwrap().value;
        (load_cluster(folder.join(case).join("cluster.yaml")).unwrap().value, set)
    };
    for case in [
        "calico-network-set-namespace-scope",
        "trap-own-node-always-in",
        "cnp-nodes",
        "trap-hostnetwork-is-node",
        "calico-service-accounts",
        "e2e-named-port",
        "cnp-self-traffic",
    ] {
        let (cluster, set) = load(case);
        let mut others = Vec::new();
        for i in 0..cluster.endpoints.len() {
            let mut without = cluster.clone();
            without.endpoints.remove(i);
            others.push(without);
            let mut moved = cluster.clone();
            moved.endpoints[i].node = cluster.nodes.last().map(|n| n.name.clone());
            moved.endpoints[i].named_ports.clear();
            others.push(moved);
            let mut joined = cluster.clone();
            let gone = joined.endpoints.remove(0);
            if let Some(first) = joined.endpoints.first_mut() {
                first.addresses.extend(gone.addresses);
            }
            others.push(joined);
        }
        for i in 0..cluster.namespaces.len() {
            let mut other = cluster.clone();
            let namespace = &mut other.namespaces[i];
            namespace.labels = namespace.labels.with("team", "red").with("env", "dev");
            others.push(other);
        }
        for other in others {
            changed += agrees((&cluster, &set), (&other, &set), &mut seed);
        }
    }
    assert!(changed > 100, "{changed}");
}
