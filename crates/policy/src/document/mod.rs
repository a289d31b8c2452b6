//! Documents: text to trees, trees to the model. One file a kind family.
//!
//! ```text
//! source -> yaml | json -> tree -> decode -> object -> kubernetes | admin | calico -> assemble
//!                                                   -> cluster
//! ```

mod admin;
mod assemble;
mod calico;
mod calico_rule;
mod calico_scope;
mod cluster;
mod decode;
mod json;
mod kubernetes;
mod object;
mod tree;
mod yaml;

use std::path::Path;
use std::sync::Arc;

use portcullis_identity_table::endpoint::ClusterState;

use self::assemble::Drafts;
use self::calico_scope::NamedSet;
use self::decode::Reader;
use self::object::Scope;
use self::tree::{Node, Position, SyntaxError, Value, shorten};
use crate::diagnostic::{Diagnostic, LoadError, Report};
use crate::model::PolicySet;
use crate::source::{self, MAX_FILE_BYTES, Source};

/// A set of policies that was accepted, and what its author should know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded<T> {
    /// What the documents say.
    pub value: T,
    /// Findings that do not refuse the set: rules that do nothing, open questions of order.
    pub warnings: Vec<Diagnostic>,
}

/// Reads policies from files, folders (every `*.yaml`, `*.yml` and `*.json` in them) and standard
/// input (`-`). All of it is one set: one bad document refuses the whole.
///
/// Cost: reads everything into memory, at most [`MAX_FILE_BYTES`] a file.
///
/// # Errors
/// Everything found wrong, each with file, line and column.
pub fn load_policies<P: AsRef<Path>>(
    paths: impl IntoIterator<Item = P>,
) -> Result<Loaded<PolicySet>, LoadError> {
    let mut report = Report::default();
    let mut set = PolicyReader::default();
    for path in paths {
        for source in source::read(path.as_ref(), &mut report) {
            set.read(&source, &mut report);
        }
    }
    set.finish(report)
}

/// Reads policies from text held in memory.
///
/// ```
/// use portcullis_policy::{Source, parse_policies};
/// let text = "apiVersion: networking.k8s.io/v1
/// kind: NetworkPolicy
/// metadata: {name: deny-all, namespace: shop}
/// spec: {podSelector: {}}
/// ";
/// let loaded = parse_policies(&[Source::new("shop.yaml", text)]).unwrap();
/// assert_eq!(loaded.value.tiers[0].policies[0].name.to_string(), "NetworkPolicy/shop/deny-all");
///
/// let error = parse_policies(&[Source::new("bad.yaml", text.replace("spec", "sepc"))]).unwrap_err();
/// assert!(error.to_string().contains("bad.yaml:4:1: error: the object has no field \"sepc\""));
/// ```
///
/// # Errors
/// As [`load_policies`].
pub fn parse_policies(sources: &[Source]) -> Result<Loaded<PolicySet>, LoadError> {
    let mut report = Report::default();
    let mut set = PolicyReader::default();
    for source in sources {
        set.read(source, &mut report);
    }
    set.finish(report)
}

/// Reads the state of a cluster: Namespace, Pod, ServiceAccount and Node objects, as
/// `kubectl get namespaces,pods,serviceaccounts,nodes -A -o yaml` prints them. Fields that policy
/// does not need are ignored.
///
/// # Errors
/// As [`load_policies`].
pub fn load_cluster(path: impl AsRef<Path>) -> Result<Loaded<ClusterState>, LoadError> {
    let mut report = Report::default();
    let sources = source::read(path.as_ref(), &mut report);
    cluster_of(&sources, report)
}

/// Reads the state of a cluster from text held in memory; see [`load_cluster`].
///
/// # Errors
/// As [`load_policies`].
pub fn parse_cluster(sources: &[Source]) -> Result<Loaded<ClusterState>, LoadError> {
    cluster_of(sources, Report::default())
}

fn cluster_of(sources: &[Source], mut report: Report) -> Result<Loaded<ClusterState>, LoadError> {
    let mut cluster = cluster::ClusterReader::default();
    for source in sources {
        each_object(source, &mut report, |object, reader| cluster.object(&object, reader));
    }
    let state = cluster.finish(&mut report);
    let (value, warnings) = report.finish(state)?;
    Ok(Loaded { value, warnings })
}

/// Collects the policies of several sources.
#[derive(Default)]
struct PolicyReader {
    drafts: Drafts,
    sets: Vec<NamedSet>,
    /// Calico's policies and the files they stand in: they are read last, since their selectors
    /// select sets, and a set may stand anywhere.
    waiting: Vec<(Arc<str>, calico::Sort, Node)>,
}

impl PolicyReader {
    fn read(&mut self, source: &Source, report: &mut Report) {
        each_object(source, report, |object, reader| self.object(object, reader));
    }

    fn object(&mut self, object: Node, reader: &mut Reader<'_>) {
        let Some((api, kind)) = kind_of(&object, reader) else { return };
        let Drafts { policies, tiers, .. } = &mut self.drafts;
        match (api, kind) {
            ("networking.k8s.io/v1", "NetworkPolicy") => {
                policies.extend(kubernetes::network_policy(&object, reader));
            }
            ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy") => {
                policies.extend(admin::cluster_network_policy(&object, reader));
            }
            ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy") => {
                policies.extend(admin::admin_network_policy(&object, reader));
            }
            ("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy") => {
                policies.extend(admin::baseline_admin_network_policy(&object, reader));
            }
            (CALICO, "Tier") => tiers.extend(calico::tier(&object, reader)),
            (CALICO, "GlobalNetworkSet") => self.set(&object, Scope::Cluster, reader),
            (CALICO, "NetworkSet") => self.set(&object, Scope::Namespaced, reader),
            (CALICO, "StagedKubernetesNetworkPolicy") => {
                policies.extend(calico::staged_kubernetes(&object, reader));
            }
            (CALICO, kind) if calico::sort_of(kind).is_some() => {
                if let Some(sort) = calico::sort_of(kind) {
                    self.waiting.push((Arc::clone(&reader.file), sort, object));
                }
            }
            _ => reader.error(
                object.entry("kind").map_or(object.at, |node| node.at),
                format!(
                    "{} of {} is not supported; supported are {SUPPORTED}",
                    shorten(kind),
                    shorten(api)
                ),
            ),
        }
    }

    fn set(&mut self, object: &Node, scope: Scope, reader: &mut Reader<'_>) {
        let index = self.drafts.sets.len();
        if let Some((named, set)) = calico::network_set(object, scope, index, reader) {
            self.sets.push(named);
            self.drafts.sets.push(set);
        }
    }

    fn finish(mut self, mut report: Report) -> Result<Loaded<PolicySet>, LoadError> {
        for (file, sort, object) in self.waiting {
            let mut reader = Reader { file, report: &mut report };
            self.drafts.policies.extend(calico::policy(&object, &sort, &self.sets, &mut reader));
        }
        let set = assemble::assemble(self.drafts, &mut report);
        let (value, warnings) = report.finish(set)?;
        Ok(Loaded { value, warnings })
    }
}

const CALICO: &str = "projectcalico.org/v3";

/// The kinds of policy documents, for messages.
const SUPPORTED: &str = "NetworkPolicy of networking.k8s.io/v1; ClusterNetworkPolicy of \
    policy.networking.k8s.io/v1alpha2; AdminNetworkPolicy and BaselineAdminNetworkPolicy of \
    policy.networking.k8s.io/v1alpha1; Tier, GlobalNetworkPolicy, NetworkPolicy, GlobalNetworkSet, \
    NetworkSet, StagedGlobalNetworkPolicy, StagedNetworkPolicy and StagedKubernetesNetworkPolicy of \
    projectcalico.org/v3; and v1 List of these";

/// Calls `each` with every object of a source, lists unrolled.
fn each_object(source: &Source, report: &mut Report, mut each: impl FnMut(Node, &mut Reader<'_>)) {
    let file = Arc::clone(&source.name);
    let mut reader = Reader { file, report };
    let text = match text_of(source) {
        Ok(text) => text,
        Err(SyntaxError { at, message }) => return reader.error(at, message),
    };
    let parsed = {
        let mut each = |document| unroll(document, &mut reader, &mut each);
        if is_json(&source.name, text) {
            json::documents(text, &mut each)
        } else {
            yaml::documents(text, &mut each)
        }
    };
    if let Err(SyntaxError { at, message }) = parsed {
        reader.error(at, message);
    }
}

/// The text, without byte order mark.
fn text_of(source: &Source) -> Result<&str, SyntaxError> {
    let start = Position { line: 1, column: 1 };
    if source.text.len() as u64 > MAX_FILE_BYTES {
        let message = format!("larger than {} MiB: split it", MAX_FILE_BYTES >> 20);
        return Err(SyntaxError::new(start, message));
    }
    match std::str::from_utf8(&source.text) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(error) => {
            let (before, after) = source.text.split_at(error.valid_up_to());
            let line = before.iter().filter(|b| **b == b'\n').count();
            let last = before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
            let column =
                String::from_utf8_lossy(before.get(last..).unwrap_or_default()).chars().count();
            let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            Err(SyntaxError::new(
                Position { line: small(line + 1), column: small(column + 1) },
                format!("not UTF-8: byte 0x{:02x}", after.first().copied().unwrap_or(0)),
            ))
        }
    }
}

/// By name, or because it begins as only JSON documents do: `{` and a quoted key or an end.
fn is_json(name: &str, text: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|e| e.to_str());
    match extension {
        Some("json") => true,
        Some("yaml" | "yml") if !text.trim_start().starts_with('{') => false,
        _ => text
            .trim_start()
            .strip_prefix('{')
            .is_some_and(|rest| rest.trim_start().starts_with(['"', '}'])),
    }
}

/// Hands out the object, or the items of a `List`.
fn unroll(document: Node, reader: &mut Reader<'_>, each: &mut impl FnMut(Node, &mut Reader<'_>)) {
    let kind = document.entry("kind").and_then(plain_text);
    let Some("List") = kind else { return each(document, reader) };
    let Value::Map(entries) = document.value else { return };
    for (key, node) in entries {
        match &*key.text {
            "apiVersion" if plain_text(&node) == Some("v1") => {}
            "apiVersion" => reader.error(node.at, "the apiVersion of a List must be v1"),
            "kind" | "metadata" => {}
            "items" => match node.value {
                Value::List(items) => items.into_iter().for_each(|item| {
                    if item.entry("kind").and_then(plain_text) == Some("List") {
                        reader.error(item.at, "a List within a List is not supported");
                    } else {
                        each(item, reader);
                    }
                }),
                Value::Null => {}
                _ => reader.error(node.at, "items must be a list"),
            },
            other => {
                reader.error(key.at, format!("a List has no field {:?}", shorten(other)));
            }
        }
    }
}

/// The API version and the kind of an object.
fn kind_of<'n>(object: &'n Node, reader: &mut Reader<'_>) -> Option<(&'n str, &'n str)> {
    if !matches!(object.value, Value::Map(_)) {
        reader
            .error(object.at, format!("an object must be a mapping, found {}", object.describe()));
        return None;
    }
    let mut text = |name| {
        let found = object.entry(name).and_then(plain_text);
        if found.is_none() {
            reader.error(object.at, format!("the object has no {name}"));
        }
        found
    };
    let (api, kind) = (text("apiVersion"), text("kind"));
    Some((api?, kind?))
}

fn plain_text(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Plain(text) | Value::Quoted(text) => Some(text),
        _ => None,
    }
}
