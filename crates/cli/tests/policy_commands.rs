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

#[test]
fn check_without_a_cluster_says_what_it_proved() {
    let said = text(&portcullis("check --policies policies.yaml"));
    assert!(said.contains("no --cluster was given"), "{said}");
    let proof = json("check --policies policies.yaml --json")["proof"].clone();
    assert_eq!(proof["over"], "stand-in");
    assert!(proof["pods"].as_u64().expect("a number") > 4);
    let proof = json(&format!("check {SET} --json"))["proof"].clone();
    assert_eq!(proof["over"], "cluster");
}

/// What SARIF 2.1.0 (OASIS) requires of a log, section by section, and what code hosts want beyond it.
#[test]
fn findings_are_sound_sarif() {
    let log = json(&format!("check {SET} --format sarif"));
    // 3.13 sarifLog: version and runs are required.
    assert_eq!(log["version"], "2.1.0");
    assert!(log["$schema"].as_str().is_some_and(|uri| uri.ends_with("sarif-2.1.0.json")));
    let runs = log["runs"].as_array().expect("runs");
    assert_eq!(runs.len(), 1);
    // 3.14, 3.18, 3.19: a run has a tool, a tool a driver, a driver a name.
    let driver = &runs[0]["tool"]["driver"];
    assert!(driver["name"].as_str().is_some_and(|name| !name.is_empty()));
    // 3.49: each reportingDescriptor has an id, unique within the driver.
    let rules = driver["rules"].as_array().expect("rules");
    let ids: std::collections::BTreeSet<&str> =
        rules.iter().map(|rule| rule["id"].as_str().expect("an id")).collect();
    assert_eq!(ids.len(), rules.len());
    for rule in rules {
        let text = rule["shortDescription"]["text"].as_str().expect("3.12.3: a text");
        assert!(text.ends_with('.'), "3.49.9: a sentence, not {text:?}");
    }
    // 3.27: a result has a message; its ruleId and level are of the known ones.
    let results = runs[0]["results"].as_array().expect("3.14.23: results, perhaps none");
    assert!(!results.is_empty());
    for result in results {
        assert!(result["message"]["text"].as_str().is_some_and(|text| !text.is_empty()));
        let id = result["ruleId"].as_str().expect("a rule");
        assert!(ids.contains(id), "{id}");
        let index = result["ruleIndex"].as_u64().expect("3.27.6: the place of the rule");
        assert_eq!(rules[usize::try_from(index).expect("small")]["id"], id);
        let level = result["level"].as_str().expect("a level");
        assert!(["none", "note", "warning", "error"].contains(&level), "3.27.10: {level}");
        // 3.28, 3.29: where it is; lines and columns begin at 1, and a URI is relative, without
        // backslashes or spaces.
        for location in result["locations"].as_array().expect("3.27.12: locations") {
            let place = &location["physicalLocation"];
            let uri = place["artifactLocation"]["uri"].as_str().expect("3.4.3: a URI");
            assert!(!uri.contains(['\\', ' ']), "{uri}");
            for number in ["startLine", "startColumn"] {
                assert!(place["region"][number].as_u64().is_some_and(|n| n >= 1), "3.30");
            }
        }
        // Without fingerprints a code host takes every edit above a finding for a new one.
        let prints = result["partialFingerprints"].as_object().expect("3.27.17: fingerprints");
        assert!(prints.values().all(serde_json::Value::is_string));
    }
}

/// A file name may hold anything; a URI may not.
#[test]
fn sarif_escapes_file_names() {
    let folder = std::env::temp_dir().join(format!("portcullis sarif {}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("50% ünsafe.yaml");
    std::fs::write(&file, "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {ingress: [{}]}\n").expect("a file");
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["check", "--format", "sarif", "--policies"])
        .arg(&file)
        .output()
        .expect("the command runs");
    std::fs::remove_dir_all(&folder).expect("the folder goes");
    let log: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let result = &log["runs"][0]["results"][0];
    let uri = &result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
    let uri = uri.as_str().expect("a URI");
    assert!(uri.is_ascii() && uri.ends_with("/50%25%20%C3%BCnsafe.yaml"), "{uri}");
}
