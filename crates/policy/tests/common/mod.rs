//! Reading case directories.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use portcullis_policy::{Flow, Verdict};
use serde_json::Value;

/// A case directory.
pub(crate) struct Case(PathBuf);

/// The case directories of this crate, and those that `PORTCULLIS_CASES` names.
pub(crate) fn cases() -> Vec<Case> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let others = std::env::var_os("PORTCULLIS_CASES").map(PathBuf::from);
    let mut cases: Vec<PathBuf> = [Some(own), others]
        .into_iter()
        .flatten()
        .flat_map(|folder| fs::read_dir(folder).expect("the folder of cases"))
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("policies.yaml").is_file())
        .collect();
    cases.sort();
    assert!(cases.len() > 100, "only {} cases found", cases.len());
    cases.into_iter().map(Case).collect()
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.file_name().unwrap_or_default().to_string_lossy())
    }
}

impl Case {
    pub(crate) fn join(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    pub(crate) fn is_invalid(&self) -> bool {
        self.to_string().starts_with("invalid-")
    }

    /// Asks for every flow; answers where verdict or policy are not what the case says.
    pub(crate) fn disagreements(
        &self,
        mut judge: impl FnMut(&Flow) -> (Verdict, String),
    ) -> Vec<String> {
        let flows = self.lines("flows.jsonl");
        let expected = self.lines("expected.jsonl");
        assert_eq!(flows.len(), expected.len(), "{self}");
        let mut wrong = Vec::new();
        for (flow, expected) in flows.iter().zip(&expected) {
            assert_eq!(flow["id"], expected["id"], "{self}");
            let (verdict, policy) = judge(&flow_of(flow));
            let fair = expected["any_of"].as_array().expect("any_of");
            if expected["verdict"] != verdict.as_str() {
                wrong.push(format!("{self}: {flow}: {}, not {policy}", expected["policy"]));
            } else if !fair.iter().any(|name| *name == *policy) {
                wrong.push(format!("{self}: {flow}: policy {policy}, not one of {fair:?}"));
            }
        }
        wrong
    }

    /// The flows that the case asks for.
    pub(crate) fn flows(&self) -> Vec<Flow> {
        self.lines("flows.jsonl").iter().map(flow_of).collect()
    }

    /// The first few of many messages.
    pub(crate) fn first(messages: &[String]) -> String {
        messages.iter().take(30).cloned().collect::<Vec<_>>().join("\n")
    }

    fn lines(&self, file: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.join(file)).expect("a file of the case");
        text.lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }
}

fn flow_of(line: &Value) -> Flow {
    let address = |name: &str| -> IpAddr { line[name].as_str().unwrap().parse().unwrap() };
    let number = |name: &str| u16::try_from(line[name].as_u64().unwrap_or(0)).unwrap();
    let (protocol, ports) = match line["protocol"].as_str().unwrap() {
        "TCP" => (6, ("src_port", "dst_port")),
        "UDP" => (17, ("src_port", "dst_port")),
        "SCTP" => (132, ("src_port", "dst_port")),
        "ICMP" => (1, ("icmp_type", "icmp_code")),
        "ICMPv6" => (58, ("icmp_type", "icmp_code")),
        other => panic!("protocol {other}"),
    };
    let ports = (number(ports.0), number(ports.1));
    Flow::new(address("src_ip"), address("dst_ip"), protocol, ports)
}
