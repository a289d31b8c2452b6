//! Every metric that there is, how many series, and that the dashboard knows no others.

use std::collections::BTreeSet;

use portcullis::dataplane::counter::Counted;
use portcullis::dataplane::verdict::RuleId;
use portcullis::{Engine, RuleSums, RuleTotals};

use super::*;
use crate::control::status::{self, Port, Queue, Steered};

fn port(name: &str) -> Port {
    let queues = (0..2).map(|queue| Queue { queue, rx_ring_full: 5, ..Queue::default() });
    Port {
        wire: "eth1:eth2".to_owned(),
        name: name.to_owned(),
        mode: "native copy".to_owned(),
        mtu: 1500,
        queues: queues.collect(),
        program: vec![Steered { verdict: "to_socket".to_owned(), packets: 9, bytes: 900 }],
    }
}

fn status() -> Status {
    let drop = status::Drop { reason: "policy_denied".to_owned(), packets: 4, bytes: 400 };
    Status {
        version: String::new(),
        pid: 1,
        name: "a:b".to_owned(),
        fail: "closed".to_owned(),
        uptime_seconds: 1.5,
        policy: status::Policy { generation: 3, ..Default::default() },
        ports: vec![port("eth1"), port("eth2")],
        machine: String::new(),
        lesser_mode: None,
        packets: status::Packets { received: 10, forwarded: 6, ..Default::default() },
        drops: vec![drop],
        connections: status::Connections::default(),
        events: status::Events::default(),
        control: Clients { too_slow: 2, ..Clients::default() },
        metrics: Clients::default(),
        flows: Some(status::Flows { log: Some(status::FlowLog::default()), ..Default::default() }),
        staged: Some(status::Staged::default()),
        state: Some(status::Kept { saves: 3, failures: 1, saved_at: 5.5, ..Default::default() }),
    }
}

/// Rules of a real policy, as many as `count`, each with one packet.
fn rules(count: usize) -> Vec<RuleTotals> {
    use portcullis::policy::{Source, parse_cluster, parse_policies};
    let cluster = parse_cluster(&[Source::new(
        "c.yaml",
        "{apiVersion: v1, kind: Pod, metadata: {name: a}, status: {podIP: 10.0.0.1}}",
    )]);
    let mut text = String::from(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n  \
         podSelector: {}\n  ingress:\n",
    );
    for port in 1..=count {
        text += &format!("  - ports: [{{port: {port}}}]\n");
    }
    let policies = parse_policies(&[Source::new("p.yaml", text)]).unwrap().value;
    let engine = Engine::new(Default::default()).unwrap();
    engine.apply(cluster.unwrap().value, policies).unwrap();
    let mut judge = engine.judge();
    for port in 1..=count as u16 {
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 9, 9, 9], [10, 0, 0, 1], 64)
            .tcp(40_000, port, 0, 65_535)
            .syn()
            .write(&mut frame, &[])
            .unwrap();
        let mut out = [Default::default()];
        judge.packets(&[portcullis::dataplane::pipeline::Input::new(&frame)], &mut out);
        assert_eq!(out[0].reason, None, "port {port}");
    }
    engine.rule_totals()
}

fn details(rules: Vec<RuleTotals>) -> Details {
    let mut rounds = portcullis::RoundTimes::default();
    rounds.buckets[3] = 5;
    Details { rules, rounds }
}

/// Names with their labels, and values.
fn series(text: &str) -> Vec<(&str, &str)> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|l| l.rsplit_once(' ').unwrap())
        .collect()
}

#[test]
fn what_is_counted_is_written() {
    let text = text(&status(), &details(rules(3)));
    let all = series(&text);
    let value = |name: &str| {
        let found = all.iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("{name} in\n{text}")).1
    };
    assert_eq!(value("portcullis_packets_total{verdict=\"allow\",reason=\"none\"}"), "6");
    assert_eq!(value("portcullis_packets_total{verdict=\"deny\",reason=\"policy_denied\"}"), "4");
    assert_eq!(value("portcullis_bytes_total{verdict=\"deny\",reason=\"policy_denied\"}"), "400");
    assert_eq!(
        value(
            "portcullis_xdp_statistics_total{interface=\"eth2\",queue=\"1\",statistic=\"rx_ring_full\"}"
        ),
        "5"
    );
    assert_eq!(value("portcullis_port_info{interface=\"eth1\",mode=\"native copy\"}"), "1.0");
    assert_eq!(value("portcullis_policy_generation"), "3.0");
    assert_eq!(
        value("portcullis_clients_disconnected_total{socket=\"control\",cause=\"too_slow\"}"),
        "2"
    );
    assert_eq!(value("portcullis_batch_seconds_count"), "5");
    assert_eq!(value("portcullis_batch_seconds_bucket{le=\"0.00001\"}"), "5");
    assert_eq!(value("portcullis_batch_seconds_bucket{le=\"+Inf\"}"), "5");
    let rule = "portcullis_rule_packets_total{policy=\"NetworkPolicy/default/p\",rule=\"p.yaml:7:5\",\
                direction=\"ingress\",effect=\"pass\"}";
    assert_eq!(value(rule), "1");
    assert!(text.ends_with("# EOF\n"));
    let names: BTreeSet<&str> = all.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.len(), all.len(), "no series twice");
}

#[test]
fn rules_beyond_the_bound_are_one_series() {
    let (few, many) = (rules(10), rules(1500));
    assert!(many.len() >= 1500);
    let count = |rules: Vec<RuleTotals>| {
        let text = text(&status(), &details(rules));
        let of_rules = |name: &&(&str, &str)| name.0.starts_with("portcullis_rule_");
        series(&text).iter().filter(of_rules).count()
    };
    assert_eq!(count(few), 10 * 4);
    // Packets and bytes, passed and refused, of so many rules and of the others.
    let most = (rules::RULES as usize + 2) * 4;
    let of_many = count(many);
    assert!((4000..=most).contains(&of_many), "{of_many} of {most}");
    let sums = RuleSums { passed: 1, ..RuleSums::default() };
    let unknown = (0..5000).map(|n| RuleTotals::new(Counted::Rule(RuleId::new(n)), None, sums));
    assert_eq!(count(unknown.collect()), 4, "rules without names are told together");
}

#[test]
fn names_cannot_break_the_text() {
    let mut status = status();
    status.ports[0].name = "e\"th\\1\nx".to_owned();
    let text = text(&status, &details(Vec::new()));
    assert!(text.contains("interface=\"e\\\"th\\\\1\\nx\""), "{text}");
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let text = text(&status(), &details(rules(1)));
    let known: BTreeSet<&str> =
        series(&text).iter().map(|(name, _)| name.split('{').next().unwrap()).collect();
    let dashboard = include_str!("../../../../../examples/grafana/portcullis.json");
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let mut asked = BTreeSet::new();
    let mut labels = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            asked.extend(words.filter(|word| word.starts_with("portcullis_")).map(str::to_owned));
            for selector in expression.split('{').skip(1) {
                let inside = selector.split('}').next().unwrap();
                let names = inside.split(',').filter_map(|part| part.split(['=', '!']).next());
                labels.extend(names.map(|name| name.trim().to_owned()));
            }
        }
    }
    assert!(asked.len() > 15, "{asked:?}");
    for name in &asked {
        assert!(known.contains(name.as_str()), "{name} is no metric");
    }
    for label in labels.iter().filter(|label| !["job", "instance"].contains(&label.as_str())) {
        assert!(text.contains(&format!("{label}=\"")), "{label} is no label");
    }
}
