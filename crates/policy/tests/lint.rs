//! Each finding on the smallest set of documents that has it, and not on its right neighbour.

use portcullis_policy::lint::{Code, Finding, lint};
use portcullis_policy::{Source, parse_cluster, parse_policies};

const CLUSTER: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: blue}}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{address: 192.168.0.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{address: 192.168.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1, containers: [{ports: [{name: http, containerPort: 80}]}]}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {nodeName: n2}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec: {nodeName: n1}
status: {podIP: 10.0.0.3}
---
apiVersion: v1
kind: Pod
metadata: {name: metrics, namespace: kube-system, labels: {app: metrics}}
spec: {nodeName: n2, containers: [{ports: [{name: https, containerPort: 10250}]}]}
status: {podIP: 10.0.0.4}
";

/// A NetworkPolicy of namespace shop.
fn np(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n"
    )
}

fn findings(policies: &str) -> Vec<Finding> {
    let cluster = parse_cluster(&[Source::new("c", CLUSTER)]).unwrap().value;
    let policies = parse_policies(&[Source::new("p", policies)]).unwrap().value;
    lint(&policies, Some(&cluster)).unwrap()
}

/// The messages of one code.
fn of(code: Code, policies: &str) -> Vec<String> {
    findings(policies).iter().filter(|f| f.code == code).map(ToString::to_string).collect()
}

#[track_caller]
fn one(code: Code, policies: &str, text: &str) {
    let found = of(code, policies);
    assert!(found.len() == 1 && found[0].contains(text), "{found:#?}");
}

#[test]
fn selects_nothing() {
    let code = Code::SelectsNothing;
    one(
        code,
        &np("p", "{podSelector: {matchLabels: {app: wbe}}}"),
        "p:1:1: warning: NetworkPolicy/shop/p selects no pod",
    );
    assert!(of(code, &np("p", "{podSelector: {matchLabels: {app: web}}}")).is_empty());
}

#[test]
fn matches_nobody() {
    let code = Code::MatchesNobody;
    let rule = |peer: &str, ports: &str| {
        np("p", &format!("{{podSelector: {{}}, ingress: [{{from: [{peer}], ports: [{ports}]}}]}}"))
    };
    one(
        code,
        &rule("{podSelector: {matchLabels: {app: wbe}}}", ""),
        "matches nobody of this cluster: pods with app == 'wbe' of namespace shop",
    );
    one(
        code,
        &rule("{podSelector: {}}", "{port: htpp}"),
        "matches no traffic between its parties: TCP port \"htpp\"",
    );
    assert!(of(code, &rule("{podSelector: {}}", "{port: http}")).is_empty());
    assert!(of(code, &rule("{ipBlock: {cidr: 203.0.113.0/24}}", "")).is_empty());
}

#[test]
fn shadowed_and_redundant() {
    let global = |rules: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: g}}\n\
             spec: {{selector: app == 'web', ingress: [{rules}]}}\n"
        )
    };
    let wide = "{action: Deny, protocol: TCP, destination: {ports: ['80:90']}}";
    let narrow = "{action: Allow, protocol: TCP, destination: {ports: [85]}}";
    one(
        Code::Shadowed,
        &global(&format!("{wide}, {narrow}")),
        "rule 2 of GlobalNetworkPolicy//g never has a say: rule 1 of",
    );
    assert!(of(Code::Shadowed, &global(&format!("{narrow}, {wide}"))).is_empty());
    let same = wide.replace("80:90", "81:82");
    one(
        Code::Redundant,
        &global(&format!("{wide}, {same}")),
        "rule 2 of GlobalNetworkPolicy//g adds nothing to rule 1",
    );
    assert!(of(Code::Redundant, &global(&format!("{same}, {wide}"))).is_empty());

    // Behind a tier that denies, no later tier has a say.
    let baseline = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
        metadata: {name: b}\nspec:\n  tier: Baseline\n  priority: 1\n  subject: {pods: {podSelector: {matchLabels: {app: web}}}}\n  \
        ingress: [{action: Accept, from: [{namespaces: {}}]}]\n";
    let denied = np("p", "{podSelector: {matchLabels: {app: web}}}");
    one(
        Code::Shadowed,
        &(denied + baseline),
        "never has a say: tier default comes first and denies, since NetworkPolicy/shop/p at p:1:1",
    );
    assert!(of(Code::Shadowed, baseline).is_empty());
}

#[test]
fn allow_all() {
    let code = Code::AllowAll;
    one(
        code,
        &np("p", "{podSelector: {}, ingress: [{}]}"),
        "note: NetworkPolicy/shop/p allows all ingress",
    );
    one(
        code,
        &np("p", "{podSelector: {}, ingress: [{}, {ports: [{port: 80}]}]}"),
        "warning: rule 1 of NetworkPolicy/shop/p allows all ingress, so its 1 other ingress rule does nothing",
    );
    assert!(of(code, &np("p", "{podSelector: {}, ingress: [{ports: [{port: 80}]}]}")).is_empty());
}

#[test]
fn split_peer() {
    let code = Code::SplitPeer;
    let from =
        |peers: &str| np("p", &format!("{{podSelector: {{}}, ingress: [{{from: [{peers}]}}]}}"));
    let (namespaces, pods) = (
        "namespaceSelector: {matchLabels: {team: blue}}",
        "podSelector: {matchLabels: {app: web}}",
    );
    one(code, &from(&format!("{{{namespaces}}}, {{{pods}}}")), "put both selectors into one item");
    assert!(of(code, &from(&format!("{{{namespaces}, {pods}}}"))).is_empty());
}

#[test]
fn cut_off() {
    let closed = np("closed", "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}");
    one(
        Code::DnsCut,
        &closed,
        "p:1:1: warning: shop/web cannot resolve names (UDP 53 to DNS): denied by egress default deny of NetworkPolicy/shop/closed",
    );
    one(
        Code::ApiServerCut,
        &closed,
        "note: shop/web cannot reach the API server on any node (TCP 6443)",
    );
    let open = closed.clone()
        + &np(
            "dns",
            "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 53, protocol: UDP}]}]}",
        );
    assert!(of(Code::DnsCut, &open).iter().all(|f| !f.contains("shop/web")));

    let system = closed
        .replace("namespace: shop", "namespace: kube-system")
        .replace("app: web", "app: metrics");
    let found = of(Code::ControlPlaneCut, &system);
    assert_eq!(found.len(), 6, "{found:#?}");
    assert!(found.iter().any(|f| {
        f.contains("kube-system/metrics cannot reach the kubelet on any node (TCP 10250)")
    }));
    let unreached = system.replace("policyTypes: [Egress]", "policyTypes: [Ingress]");
    one(
        Code::ControlPlaneCut,
        &unreached,
        "no other node reaches kube-system/metrics of the kubelet (TCP 10250)",
    );
}

#[test]
fn metadata_reachable() {
    let code = Code::MetadataReachable;
    one(
        code,
        "",
        "warning: kube-system/* (all 2 pods), shop/* (all 2 pods) can reach the metadata service of the cloud at 169.254.169.254 (TCP 80): denied by no policy",
    );
    let deny = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
        metadata: {name: m}\nspec:\n  tier: Admin\n  priority: 1\n  subject: {namespaces: {}}\n  \
        egress: [{action: Deny, to: [{networks: [169.254.169.254/32]}]}]\n";
    assert!(of(code, deny).is_empty());
    let open =
        np("open", "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{}]}");
    let found = of(code, &open);
    assert!(
        found[0].contains("p:4:80: warning: shop/web can reach")
            && found[0].contains("allowed by egress rule 1 of NetworkPolicy/shop/open"),
        "{found:#?}"
    );
}

#[test]
fn without_a_cluster_only_the_documents_count() {
    let policies = np("p", "{podSelector: {matchLabels: {app: wbe}}, ingress: [{}]}");
    let policies = parse_policies(&[Source::new("p", policies)]).unwrap().value;
    let codes: Vec<Code> = lint(&policies, None).unwrap().iter().map(|f| f.code).collect();
    assert_eq!(codes, [Code::AllowAll]);
}

#[test]
fn networks_of_both_families_in_one_rule() {
    let warnings = |rule: &str| {
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: g}}\n\
             spec: {{selector: all(), ingress: [{{action: Allow, {rule}}}]}}\n"
        );
        parse_policies(&[Source::new("f", text)]).unwrap().warnings.len()
    };
    assert_eq!(warnings("source: {nets: [10.0.0.0/8, 'fd00::/8']}"), 1);
    assert_eq!(warnings("source: {nets: [10.0.0.0/8]}, destination: {notNets: ['fd00::/8']}"), 1);
    assert_eq!(warnings("ipVersion: 4, source: {nets: ['fd00::/8']}"), 1);
    assert_eq!(warnings("ipVersion: 6, source: {nets: ['fd00::/8']}"), 0);
    assert_eq!(warnings("source: {nets: [10.0.0.0/8]}, destination: {nets: [11.0.0.0/8]}"), 0);
}
