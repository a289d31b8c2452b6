//! `portcullis recommend`: flow records in, least-privilege policies out.

mod seen;
mod workload;
mod write;

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::time::Duration;

use crate::control::Which;
use crate::output::{self, Outcome, Refused};
use crate::{documents, follow};
use seen::Seen;

/// Flags of `portcullis recommend`.
#[derive(clap::Args)]
#[command(
    after_help = "Reads what `portcullis run --flow-log` wrote, and writes policies that allow exactly the
connections in it that were allowed: between workloads told apart by their stable labels, from and to the
addresses outside that were seen, on the ports that were used. Each rule says how many connections it is
for and when the last one was.

Pods that no connection was seen of get no policy. What a policy of the format cannot say (for Kubernetes
ICMP, for one) is listed at the end as comments.

Examples:
  portcullis recommend --flows flows.jsonl > recommended.yaml
  portcullis recommend --flows flows.jsonl --format calico
  portcullis recommend --follow 3600 > recommended.yaml   # an hour of a running firewall
  portcullis recommend --flows flows.jsonl --cluster cluster.yaml | portcullis check --policies -
  portcullis diff --cluster c.yaml --old policies/ --new recommended.yaml

Exit code: 0, or 2 if a record or a document is refused (FILE:LINE on stderr)."
)]
pub(crate) struct Args {
    /// Flow records (JSON lines, or - for stdin); may be given several times
    #[arg(long, value_name = "FILE", required_unless_present = "follow")]
    flows: Vec<PathBuf>,
    /// Records that a running firewall makes from now on, for so many seconds or until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "inf")]
    follow: Option<f64>,
    #[command(flatten)]
    which: Which,
    /// The cluster: names the pods of addresses that the records do not name, and shows which other
    /// pods a selector must not select
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// Only from records no older than this many hours before the newest
    #[arg(long, value_name = "HOURS")]
    last: Option<u32>,
    /// The kind of policies to write
    #[arg(long, value_enum, default_value_t)]
    format: write::Format,
}

/// Reads, groups, writes.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    documents::one_stdin(args.flows.iter().chain(&args.cluster))?;
    let cluster = match &args.cluster {
        Some(path) => documents::cluster(path)?,
        None => Default::default(),
    };
    let mut seen = Seen::new(&cluster);
    for path in &args.flows {
        let name = path.display().to_string();
        if name == "-" {
            seen.read("stdin", std::io::stdin().lock())?;
        } else {
            let file = File::open(path).map_err(|e| format!("error: {name}: {e}"))?;
            seen.read(&name, BufReader::new(file))?;
        }
    }
    if let Some(seconds) = args.follow {
        watch(&args.which, seconds, &mut seen)?;
    }
    if let Some(hours) = args.last {
        seen.forget_before(u64::from(hours) * 3600);
    }
    if seen.is_empty() {
        return Err("error: no allowed connection in the records: nothing to recommend".into());
    }
    output::text(&write::policies(&seen, args.format)?)?;
    Ok(Outcome::Done)
}

/// Notes what a running firewall records meanwhile.
fn watch(which: &Which, seconds: f64, seen: &mut Seen) -> Result<(), Refused> {
    let time = match seconds {
        f64::INFINITY => None,
        seconds => Some(
            Duration::try_from_secs_f64(seconds)
                .map_err(|_| "error: --follow: expected a number of seconds")?,
        ),
    };
    let followed = follow::follow(which, time, |record| {
        seen.take(record);
        Ok(true)
    })?;
    eprintln!("{} records{}", followed.sent, followed.loss());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis::Engine;
    use portcullis::identity_table::endpoint::{ClusterState, Endpoint};
    use portcullis::policy::model::PolicySet;
    use portcullis::policy::{Flow, Source, Verdict, parse_policies};
    use proptest::prelude::*;
    use serde_json::json;

    /// Pods of a few workloads, some of whose labels contain those of others.
    fn cluster() -> ClusterState {
        let workloads: [(&str, &[(&str, &str)]); 6] = [
            ("shop", &[("app", "web")]),
            ("shop", &[("app", "web"), ("tier", "canary")]),
            ("shop", &[("app", "db")]),
            ("shop", &[("team", "blue")]),
            ("ops", &[("app", "web")]),
            ("ops", &[("app.kubernetes.io/name", "prom"), ("app", "true")]),
        ];
        let mut endpoints = Vec::new();
        for (n, (namespace, labels)) in workloads.into_iter().enumerate() {
            for replica in 0..2u8 {
                let hash = format!("{n}{replica}");
                let labels = labels.iter().copied().chain([("pod-template-hash", &*hash)]);
                endpoints.push(Endpoint {
                    labels: labels.collect(),
                    addresses: vec![[10, 0, n as u8, replica].into()],
                    ..Endpoint::new(namespace, &format!("pod-{n}-{replica}"))
                });
            }
        }
        ClusterState { endpoints, ..ClusterState::default() }
    }

    /// Ends of flows: pods by number, then addresses outside.
    fn end(cluster: &ClusterState, n: usize) -> serde_json::Value {
        match cluster.endpoints.get(n) {
            Some(pod) => json!({
                "address": pod.addresses[0],
                "namespace": pod.namespace,
                "name": pod.name,
                "labels": pod.labels.iter().collect::<std::collections::BTreeMap<_, _>>(),
            }),
            None => json!({"address": format!("203.0.113.{}", n - cluster.endpoints.len())}),
        }
    }

    type Seen3 = (usize, usize, (u8, u16));

    fn records(cluster: &ClusterState, flows: &[Seen3]) -> String {
        let mut lines = String::new();
        for (n, (source, destination, (protocol, port))) in flows.iter().enumerate() {
            let (mut from, mut to) = (end(cluster, *source), end(cluster, *destination));
            from["port"] = json!(40_000);
            to["port"] = json!(port);
            let time = format!("{}.5", 1_700_000_000 + n);
            let record = json!({
                "version": 1, "event": "start", "verdict": "allow", "time": time, "start": time, "last_seen": time,
                "policy": "default", "protocol": protocol, "source": from, "destination": to,
            });
            lines += &format!("{record}\n");
        }
        lines
    }

    fn recommended(cluster: &ClusterState, flows: &[Seen3], format: write::Format) -> PolicySet {
        let mut seen = Seen::new(cluster);
        seen.read("records", records(cluster, flows).as_bytes()).unwrap_or_else(|e| {
            panic!("{}", e.message());
        });
        let text = write::policies(&seen, format).unwrap_or_else(|e| panic!("{}", e.message()));
        let parsed = parse_policies(&[Source::new("recommended.yaml", &*text)]);
        let parsed = parsed.unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert!(parsed.warnings.is_empty(), "{:?}\n{text}", parsed.warnings);
        parsed.value
    }

    fn address(cluster: &ClusterState, n: usize) -> std::net::IpAddr {
        let outside = || [203, 0, 113, (n - cluster.endpoints.len()) as u8].into();
        cluster.endpoints.get(n).map_or_else(outside, |pod| pod.addresses[0])
    }

    fn allowed(engine: &Engine, cluster: &ClusterState, flow: &Seen3) -> bool {
        let (source, destination, (protocol, port)) = *flow;
        let ends = (address(cluster, source), address(cluster, destination));
        let flow = Flow::new(ends.0, ends.1, protocol, (40_000, port));
        engine.evaluate(&flow).verdict == Verdict::Allow
    }

    fn engine(cluster: &ClusterState, policies: PolicySet) -> Engine {
        let engine = Engine::new(Default::default()).unwrap();
        engine.apply(cluster.clone(), policies).unwrap();
        engine
    }

    /// The workload of an end: replicas are one, an address outside is itself.
    fn group(n: usize) -> usize {
        if n < 12 { n / 2 } else { n }
    }

    #[test]
    fn protocols_without_ports_are_for_calico() {
        let cluster = cluster();
        let ping = (0, 4, (1, 0));
        let calico = engine(&cluster, recommended(&cluster, &[ping], write::Format::Calico));
        assert!(allowed(&calico, &cluster, &ping));
        assert!(!allowed(&calico, &cluster, &(0, 4, (6, 80))));
        assert!(!allowed(&calico, &cluster, &(4, 0, (1, 0))));
        let kubernetes = recommended(&cluster, &[ping], write::Format::Kubernetes);
        assert!(!allowed(&engine(&cluster, kubernetes), &cluster, &ping), "said in a comment");
    }

    #[test]
    fn labels_that_a_selector_cannot_hold_are_refused() {
        let cluster = ClusterState::default();
        for label in [json!({"app": "it's \"web\""}), json!({"app": "a\nb"}), json!({"a pp": "x"})]
        {
            let end = json!({"address": "10.0.0.1", "namespace": "shop", "labels": label});
            let record = json!({
                "version": 1, "time": "1", "start": "1", "last_seen": "1",
                "event": "start", "verdict": "allow", "policy": "default", "protocol": 1,
                "source": end, "destination": {"address": "192.0.2.1"},
            });
            let mut seen = Seen::new(&cluster);
            assert!(seen.read("records", record.to_string().as_bytes()).is_ok());
            let refused = write::policies(&seen, write::Format::Calico);
            assert!(refused.is_err_and(|why| why.message().contains("label")), "{label}");
        }
    }

    fn format() -> impl Strategy<Value = write::Format> {
        prop_oneof![Just(write::Format::Kubernetes), Just(write::Format::Calico)]
    }

    fn flows() -> impl Strategy<Value = Vec<Seen3>> {
        let service = prop_oneof![
            (Just(6u8), 79..83u16),
            (Just(17u8), Just(53u16)),
            (Just(132u8), Just(9u16)),
        ];
        let flow = (0..16usize, 0..16usize, service);
        // A pod reaches itself whatever policies say, and outside to outside concerns no pod.
        let matters = |(a, b, _): &Seen3| a != b && (*a < 12 || *b < 12);
        proptest::collection::vec(flow.prop_filter("matters", matters), 1..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn what_was_seen_passes_and_nothing_else_that_is_judged(flows in flows(), format in format()) {
            let cluster = cluster();
            let engine = engine(&cluster, recommended(&cluster, &flows, format));
            for flow in &flows {
                prop_assert!(allowed(&engine, &cluster, flow), "{flow:?} was seen");
            }
            let known: std::collections::BTreeSet<usize> =
                flows.iter().flat_map(|(a, b, _)| [group(*a), group(*b)]).collect();
            for a in 0..16 {
                for b in 0..16 {
                    // Of one known workload at least; a pod always reaches itself.
                    let concerns = (a < 12 && known.contains(&group(a)))
                        || (b < 12 && known.contains(&group(b)));
                    if a == b || !concerns {
                        continue;
                    }
                    for service in [(6, 79), (6, 80), (6, 82), (17, 53), (132, 9), (6, 443)] {
                        let same = |(x, y, s): &Seen3| {
                            (group(*x), group(*y), *s) == (group(a), group(b), service)
                        };
                        let flow = (a, b, service);
                        prop_assert_eq!(
                            allowed(&engine, &cluster, &flow),
                            flows.iter().any(same),
                            "{:?}", flow
                        );
                    }
                }
            }
        }

        #[test]
        fn no_rule_is_idle(flows in flows(), format in format()) {
            let cluster = cluster();
            let policies = recommended(&cluster, &flows, format);
            let mut without = Vec::new();
            for (t, tier) in policies.tiers.iter().enumerate() {
                for (p, policy) in tier.policies.iter().enumerate() {
                    for egress in [false, true] {
                        let rules = if egress { &policy.egress } else { &policy.ingress };
                        for rule in 0..rules.as_ref().map_or(0, Vec::len) {
                            let mut fewer = policies.clone();
                            let policy = &mut fewer.tiers[t].policies[p];
                            let rules =
                                if egress { &mut policy.egress } else { &mut policy.ingress };
                            rules.as_mut().unwrap().remove(rule);
                            without.push(fewer);
                        }
                    }
                }
            }
            for fewer in without {
                let engine = engine(&cluster, fewer);
                prop_assert!(!flows.iter().all(|flow| allowed(&engine, &cluster, flow)));
            }
        }
    }
}
