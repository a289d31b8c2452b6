//! What the commands about policies share: reading documents, and parts of their JSON.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use portcullis::identity_table::ClusterState;
use portcullis::policy::diff::DecidedBy;
use portcullis::policy::group::Group;
use portcullis::policy::model::{Direction, IpVersion, Origin, PolicySet};
use portcullis::policy::space::{self, Protocols, Region};
use portcullis::policy::{self, Flow};
use serde_json::{Value, json};

use crate::output::Refused;

/// Reads a cluster; its warnings go to stderr.
pub(crate) fn cluster(path: &Path) -> Result<ClusterState, Refused> {
    let loaded = policy::load_cluster(path)?;
    for warning in &loaded.warnings {
        eprintln!("{warning}");
    }
    Ok(loaded.value)
}

/// Reads one set of policies from files and folders; its warnings go to stderr.
pub(crate) fn policies(paths: &[PathBuf]) -> Result<PolicySet, Refused> {
    let loaded = policy::load_policies(paths)?;
    for warning in &loaded.warnings {
        eprintln!("{warning}");
    }
    Ok(loaded.value)
}

/// Refuses `-` for more than one input.
pub(crate) fn one_stdin<'p>(inputs: impl IntoIterator<Item = &'p PathBuf>) -> Result<(), Refused> {
    if inputs.into_iter().filter(|path| path.as_os_str() == "-").count() > 1 {
        return Err("error: `-` (stdin) can stand for one input only".into());
    }
    Ok(())
}

pub(crate) fn origin(origin: &Origin) -> Value {
    json!({"file": *origin.file, "line": origin.line, "column": origin.column})
}

pub(crate) fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

pub(crate) fn decided_by(by: &DecidedBy) -> Value {
    json!({
        "direction": direction(by.direction),
        "policy": by.policy.to_string(),
        "rule": by.rule,
        "origin": origin(&by.origin),
    })
}

pub(crate) fn group(group: &Group) -> Value {
    let pods: Vec<String> = group
        .pods
        .iter()
        .flat_map(|(namespace, pods)| {
            pods.names.iter().map(move |name| format!("{namespace}/{name}"))
        })
        .collect();
    json!({
        "text": group.to_string(),
        "pods": pods,
        "nodes": group.nodes,
        "prefixes": group.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "more_prefixes": group.more_prefixes,
    })
}

pub(crate) fn traffic(regions: &[Region], families: &BTreeSet<IpVersion>) -> Value {
    let families: Vec<u8> = families
        .iter()
        .map(|version| match version {
            IpVersion::V4 => 4,
            IpVersion::V6 => 6,
        })
        .collect();
    let list: Vec<Value> = regions
        .iter()
        .map(|region| {
            let protocol = match region.protocols {
                Protocols::Is(number) => json!(number),
                Protocols::Others { .. } => json!("other"),
            };
            json!({
                "protocol": protocol,
                "source": [region.source.0, region.source.1],
                "destination": [region.destination.0, region.destination.1],
            })
        })
        .collect();
    json!({"text": space::phrase(regions), "regions": list, "ip_versions": families})
}

pub(crate) fn flow(flow: &Flow) -> Value {
    json!({
        "text": flow.to_string(),
        "source": flow.source.to_string(),
        "destination": flow.destination.to_string(),
        "protocol": flow.header.protocol,
        "source_port": flow.header.source_port,
        "destination_port": flow.header.destination_port,
    })
}
