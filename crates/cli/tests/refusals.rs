//! What a user sees when something is wrong: exit code 2, one line for each mistake, its place, and
//! what to do; never a panic. Needs no privileges.

use std::path::PathBuf;
use std::process::Command;

const CLUSTER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a}
status: {podIP: 10.0.0.1}
";

const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}}
";

const FLOWS: &str = r#"{"id":1,"src_ip":"10.0.0.9","dst_ip":"10.0.0.1","protocol":"TCP"}"#;

/// A folder with the three inputs of `eval`.
struct Case(PathBuf);

impl Case {
    fn new(name: &str, cluster: &str, policies: &str, flows: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("portcullis-refusal-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("cluster.yaml"), cluster).unwrap();
        std::fs::write(folder.join("policies.yaml"), policies).unwrap();
        std::fs::write(folder.join("flows.jsonl"), flows).unwrap();
        Self(folder)
    }

    /// Exit code, standard output, standard error.
    fn eval(&self) -> (Option<i32>, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .current_dir(&self.0)
            .args(
                "eval --cluster cluster.yaml --policies policies.yaml --flows flows.jsonl"
                    .split(' '),
            )
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn refused(name: &str, cluster: &str, policies: &str, flows: &str, expected: &[&str]) {
    let (code, out, error) = Case::new(name, cluster, policies, flows).eval();
    assert_eq!(code, Some(2), "{name}: {error}");
    assert_eq!(out, "", "{name}: nothing is decided by a refused set");
    assert_eq!(error.trim().lines().count(), 1, "{name}: {error}");
    assert!(!error.contains("panicked"), "{name}: {error}");
    for text in expected {
        assert!(error.contains(text), "{name}: {text:?} not in {error:?}");
    }
}

#[test]
fn a_good_set_is_decided() {
    let (code, out, error) = Case::new("good", CLUSTER, POLICIES, FLOWS).eval();
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert_eq!(out, "{\"id\":1,\"verdict\":\"deny\",\"policy\":\"NetworkPolicy/default/deny\"}\n");
}

#[test]
fn bad_documents_are_refused_with_their_place() {
    let policy = |text: &str| POLICIES.replace("spec: {podSelector: {}}", text);
    let kind = |text: &str| POLICIES.replace("kind: NetworkPolicy", text);
    refused("yaml", CLUSTER, "a: [1", FLOWS, &["policies.yaml:", ": error:", "]"]);
    refused(
        "field",
        CLUSTER,
        &policy("spec: {podSelector: {}, ingres: []}"),
        FLOWS,
        &["policies.yaml:5:", "error:", "ingres", "ingress"],
    );
    refused(
        "kind",
        CLUSTER,
        &kind("kind: FirewallPolicy"),
        FLOWS,
        &["policies.yaml:", "FirewallPolicy"],
    );
    refused(
        "port",
        CLUSTER,
        &policy("spec: {podSelector: {}, ingress: [{ports: [{port: 65536}]}]}"),
        FLOWS,
        &["policies.yaml:5:", "65536"],
    );
    refused("utf8", CLUSTER, "\u{0}", FLOWS, &["policies.yaml:1:"]);
}

#[test]
fn bad_clusters_are_refused_with_their_place() {
    let twice = format!("{CLUSTER}---{}", CLUSTER.replace("name: a", "name: b"));
    refused(
        "address",
        &twice,
        POLICIES,
        FLOWS,
        &["cluster.yaml:", "10.0.0.1", "default/a", "default/b"],
    );
    refused(
        "ip",
        &CLUSTER.replace("10.0.0.1", "10.0.0.256"),
        POLICIES,
        FLOWS,
        &["cluster.yaml:5:"],
    );
}

#[test]
fn bad_flows_are_refused_with_their_place() {
    refused("flow", CLUSTER, POLICIES, "\n{\"id\":1", &["flows.jsonl:2:", "error:"]);
    refused(
        "protocol",
        CLUSTER,
        POLICIES,
        &FLOWS.replace("TCP", "tcp"),
        &["flows.jsonl:1:", "`tcp`", "`TCP`"],
    );
}

#[test]
fn missing_files_are_named() {
    for missing in ["cluster.yaml", "policies.yaml", "flows.jsonl"] {
        let case = Case::new(missing, CLUSTER, POLICIES, FLOWS);
        std::fs::remove_file(case.0.join(missing)).unwrap();
        let (code, _, error) = case.eval();
        assert_eq!(code, Some(2));
        assert!(error.contains(missing) && error.contains("No such file"), "{error}");
    }
}

#[test]
fn doctor_says_what_is_there_and_what_is_missing() {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis")).arg("doctor").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["kernel", "AF_XDP", "CAP_NET_ADMIN", "CAP_BPF", "locked memory"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // 0 where a firewall can run, 1 where something has to change first: never anything else.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{:?}", output.status);
}
