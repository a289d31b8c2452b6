//! explain, diff, reach and check as a user runs them, in `examples/shop`: what is printed, as text
//! and as JSON, and the exit codes that CI relies on.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Runs the command in the folder of the example.
fn portcullis(args: &str) -> Output {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop");
    Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(args.split(' '))
        .current_dir(folder)
        .output()
        .expect("the command runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(args: &str) -> Value {
    serde_json::from_slice(&portcullis(args).stdout).expect("JSON")
}

const SET: &str = "--cluster cluster.yaml --policies policies.yaml";

#[test]
fn explain_names_the_rule() {
    let run = |flow: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop");
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.arg("explain").args(SET.split(' ')).args(["--flow", flow]).current_dir(folder);
        command.output().expect("the command runs")
    };
    let denied = run("tcp shop/web-0 > shop/db-0:5432");
    assert!(denied.status.success());
    assert!(text(&denied).starts_with("DENIED: TCP port 5432 from shop/web-0 to shop/db-0"));
    assert!(text(&denied).contains("policies.yaml:61:5, but its source is pods with app == 'api'"));
    let allowed = text(&run("tcp shop/api-0 > shop/db-0:5432"));
    assert!(allowed.contains("ingress rule 1 of NetworkPolicy/shop/db at policies.yaml:61:5"));
    let nobody = run("tcp shop/nobody > shop/db-0:5432");
    assert_eq!(nobody.status.code(), Some(2));
}

#[test]
fn diff_says_what_changes() {
    let changed = "diff --cluster cluster.yaml --old policies.yaml --new policies-next.yaml";
    assert_eq!(portcullis(changed).status.code(), Some(1));
    let changes = json(&format!("{changed} --json"))["changes"].clone();
    let verdicts: Vec<_> = changes
        .as_array()
        .expect("changes")
        .iter()
        .map(|change| (change["from"]["verdict"].clone(), change["to"]["verdict"].clone()))
        .collect();
    assert_eq!(verdicts, [("deny".into(), "allow".into()), ("allow".into(), "deny".into())]);
    let same = portcullis("diff --cluster cluster.yaml --old policies.yaml --new policies.yaml");
    assert_eq!(same.status.code(), Some(0));
    assert!(text(&same).contains("every flow alike"));
}

#[test]
fn reach_lists_every_peer() {
    let rows = json(&format!("reach {SET} --to shop/db-0 --json"))["rows"].clone();
    let peers: Vec<_> = rows
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| (row["peers"]["text"].clone(), row["traffic"]["text"].clone()))
        .collect();
    let expected =
        [("node node-2".into(), "all traffic".into()), ("shop/api-0".into(), "TCP 5432".into())];
    assert_eq!(peers, expected);
    assert!(
        text(&portcullis(&format!("reach {SET} --from shop/web-0 --format dot")))
            .starts_with("digraph")
    );
    assert_eq!(portcullis(&format!("reach {SET} --to shop/nobody")).status.code(), Some(2));
}

#[test]
fn check_has_exit_codes_for_ci() {
    let code = |args: &str| portcullis(args).status.code();
    assert_eq!(code(&format!("check {SET}")), Some(0));
    assert_eq!(code(&format!("check {SET} --fail-on note")), Some(1));
    assert_eq!(code(&format!("check {SET} --fail-on note --allow api-server-cut")), Some(0));
    assert_eq!(code("check --policies cluster.yaml"), Some(2));
    assert!(text(&portcullis(&format!("check {SET}"))).contains("proved: "));
    let sarif = json(&format!("check {SET} --format sarif"));
    assert_eq!(sarif["version"], "2.1.0");
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!(result["ruleId"], "api-server-cut");
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "policies.yaml");
    assert_eq!(place["region"]["startLine"], 2);
}
