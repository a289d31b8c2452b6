//! The state of a cluster: v1 Namespace, Pod, ServiceAccount and Node.
//!
//! Such files come from a running cluster and hold much that no policy needs, so unknown fields are
//! ignored here; but what is read must be right.

use std::net::IpAddr;

use ahash::AHashMap;
use portcullis_identity_table::Labels;
use portcullis_identity_table::endpoint::{
    ClusterState, Endpoint, EndpointName, NamedPort, Namespace, Node as ClusterNode, ServiceAccount,
};

use super::decode::Reader;
use super::tree::{Node, Position, Value, shorten};
use super::{kind_of, kubernetes, object};
use crate::diagnostic::Report;
use crate::model::Origin;

/// Collects the objects of several sources.
#[derive(Default)]
pub(crate) struct ClusterReader {
    state: ClusterState,
    /// Where each object was written, to name both places of a duplicate.
    origins: AHashMap<String, Origin>,
    /// The pod that owns an address, and where that is written.
    owners: AHashMap<IpAddr, (EndpointName, Origin)>,
    /// Nodes that pods say they run on, by name.
    named_nodes: AHashMap<Box<str>, Origin>,
}

impl ClusterReader {
    pub(crate) fn object(&mut self, object: &Node, reader: &mut Reader<'_>) {
        let Some((api, kind)) = kind_of(object, reader) else { return };
        match (api, kind) {
            ("v1", "Namespace") => self.namespace(object, reader),
            ("v1", "Pod") => self.pod(object, reader),
            ("v1", "ServiceAccount") => self.service_account(object, reader),
            ("v1", "Node") => self.node(object, reader),
            _ if api.contains("networking") || api.contains("projectcalico") => {
                reader.error(
                    object.at,
                    format!("{kind} is a policy: it belongs in the policies, not in the cluster"),
                );
                None
            }
            _ => {
                reader.warn(object.at, format!("{kind} of {api} is not read: no policy needs it"));
                None
            }
        };
    }

    pub(crate) fn finish(self, report: &mut Report) -> ClusterState {
        if !self.state.nodes.is_empty() {
            let known: ahash::AHashSet<&str> =
                self.state.nodes.iter().map(|node| &*node.name).collect();
            for (name, origin) in &self.named_nodes {
                if !known.contains(&**name) {
                    report.warn(
                        origin.clone(),
                        format!("a pod runs on node {name}, which the cluster does not have"),
                    );
                }
            }
        }
        self.state
    }

    fn namespace(&mut self, object: &Node, reader: &mut Reader<'_>) -> Option<()> {
        let metadata = metadata(object, false, reader)?;
        self.unique("Namespace", &metadata, object.at, reader)?;
        self.state.namespaces.push(Namespace::new(&metadata.name, metadata.labels));
        Some(())
    }

    fn service_account(&mut self, object: &Node, reader: &mut Reader<'_>) -> Option<()> {
        let metadata = metadata(object, true, reader)?;
        self.unique("ServiceAccount", &metadata, object.at, reader)?;
        let Metadata { name, namespace, labels } = metadata;
        self.state.service_accounts.push(ServiceAccount { namespace, name, labels });
        Some(())
    }

    fn node(&mut self, object: &Node, reader: &mut Reader<'_>) -> Option<()> {
        let metadata = metadata(object, false, reader)?;
        self.unique("Node", &metadata, object.at, reader)?;
        let mut addresses = Vec::new();
        for item in items(object.entry("status").and_then(|s| s.entry("addresses"))) {
            // Host names stand among the addresses.
            if let Some(Value::Plain(text) | Value::Quoted(text)) =
                item.entry("address").map(|node| &node.value)
                && let Ok(address) = text.parse::<IpAddr>()
            {
                addresses.push(address);
            }
        }
        let Metadata { name, labels, .. } = metadata;
        self.state.nodes.push(ClusterNode { name, labels, addresses });
        Some(())
    }

    fn pod(&mut self, object: &Node, reader: &mut Reader<'_>) -> Option<()> {
        let metadata = metadata(object, true, reader)?;
        self.unique("Pod", &metadata, object.at, reader)?;
        let status = object.entry("status");
        let phase = field(status, "phase");
        if let Some(phase) = phase {
            let phase = reader.word(
                phase,
                "phase",
                &["Pending", "Running", "Succeeded", "Failed", "Unknown"],
            )?;
            // A finished pod owns no address and names no port.
            if matches!(phase, "Succeeded" | "Failed") {
                return Some(());
            }
        }
        let spec = object.entry("spec");
        let mut endpoint = Endpoint::new(&metadata.namespace, &metadata.name);
        endpoint.labels = metadata.labels;
        if let Some(node) = field(spec, "serviceAccountName") {
            let name = reader.string(node, "serviceAccountName")?;
            if !name.is_empty() {
                endpoint.service_account = name.into();
            }
        }
        if let Some(node) = field(spec, "hostNetwork") {
            endpoint.host_network = reader.boolean(node, "hostNetwork")?;
        }
        if let Some(node) = field(spec, "nodeName") {
            let name: Box<str> = reader.string(node, "nodeName")?.into();
            if !name.is_empty() {
                let origin = reader.origin(node.at);
                self.named_nodes.entry(name.clone()).or_insert(origin);
                endpoint.node = Some(name);
            }
        }
        endpoint.named_ports = named_ports(spec, reader)?;
        self.addresses(&mut endpoint, status, reader)?;
        self.state.endpoints.push(endpoint);
        Some(())
    }

    /// Reads podIP and podIPs; an address belongs to one pod, unless that shares its node's network.
    fn addresses(
        &mut self,
        endpoint: &mut Endpoint,
        status: Option<&Node>,
        reader: &mut Reader<'_>,
    ) -> Option<()> {
        let single = field(status, "podIP");
        let several = items(field(status, "podIPs")).iter().filter_map(|item| match &item.value {
            Value::Map(_) => item.entry("ip"),
            _ => Some(item),
        });
        for node in single.into_iter().chain(several) {
            let text = reader.string(node, "a pod's address")?;
            if text.is_empty() {
                continue;
            }
            let Ok(address) = text.parse::<IpAddr>() else {
                reader.error(node.at, format!("{:?} is no IP address", shorten(text)));
                return None;
            };
            // A mapped address names the IPv4 host that packets carry.
            let address = address.to_canonical();
            if endpoint.addresses.contains(&address) {
                continue;
            }
            endpoint.addresses.push(address);
            if endpoint.host_network {
                continue;
            }
            let owner = (endpoint.key(), reader.origin(node.at));
            if let Some((other, origin)) = self.owners.get(&address) {
                reader.error(
                    node.at,
                    format!(
                        "pod {} has the address {address} of pod {other} ({origin}): \
                         an address belongs to one live pod",
                        owner.0
                    ),
                );
                return None;
            }
            self.owners.insert(address, owner);
        }
        Some(())
    }

    fn unique(
        &mut self,
        kind: &str,
        metadata: &Metadata,
        at: Position,
        reader: &mut Reader<'_>,
    ) -> Option<()> {
        let key = format!("{kind} {}/{}", metadata.namespace, metadata.name);
        match self.origins.entry(key) {
            std::collections::hash_map::Entry::Occupied(first) => {
                let name = &metadata.name;
                reader.error(at, format!("{kind} {name} is already defined at {}", first.get()));
                None
            }
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(reader.origin(at));
                Some(())
            }
        }
    }
}

struct Metadata {
    name: Box<str>,
    /// Empty for cluster-scoped kinds.
    namespace: Box<str>,
    labels: Labels,
}

fn metadata(object: &Node, namespaced: bool, reader: &mut Reader<'_>) -> Option<Metadata> {
    let Some(node) = object.entry("metadata") else {
        reader.error(object.at, "the object has no metadata");
        return None;
    };
    let Some(name) = field(Some(node), "name") else {
        reader.error(node.at, "metadata has no name");
        return None;
    };
    let name = object::object_name(name, "metadata.name", reader)?;
    let namespace = match field(Some(node), "namespace") {
        _ if !namespaced => "".into(),
        None => object::DEFAULT_NAMESPACE.into(),
        Some(node) => object::namespace_name(node, reader)?,
    };
    let labels = match field(Some(node), "labels") {
        Some(node) => object::labels(node, reader)?,
        None => Labels::default(),
    };
    Some(Metadata { name, namespace, labels })
}

fn named_ports(spec: Option<&Node>, reader: &mut Reader<'_>) -> Option<Vec<NamedPort>> {
    let mut ports = Vec::new();
    // A sidecar is an init container that stays.
    for list in ["containers", "initContainers"] {
        for container in items(field(spec, list)) {
            if list == "initContainers" && field(Some(container), "restartPolicy").is_none() {
                continue;
            }
            for port in items(field(Some(container), "ports")) {
                ports.extend(named_port(port, reader)?);
            }
        }
    }
    Some(ports)
}

fn named_port(item: &Node, reader: &mut Reader<'_>) -> Option<Option<NamedPort>> {
    let protocol = match field(Some(item), "protocol") {
        Some(node) => kubernetes::transport(node, reader)?,
        None => 6,
    };
    let Some(number) = field(Some(item), "containerPort") else {
        reader.error(item.at, "a port has no containerPort");
        return None;
    };
    let port = reader.integer(number, "containerPort", 1, u16::MAX)?;
    let Some(name) = field(Some(item), "name") else { return Some(None) };
    let name = reader.string(name, "a port's name")?;
    Some((!name.is_empty()).then(|| NamedPort { name: name.into(), protocol, port }))
}

/// The value of a field that is there and not `null`.
fn field<'n>(node: Option<&'n Node>, name: &str) -> Option<&'n Node> {
    node.and_then(|node| node.entry(name)).filter(|node| node.value != Value::Null)
}

fn items(node: Option<&Node>) -> &[Node] {
    match node.map(|node| &node.value) {
        Some(Value::List(items)) => items,
        _ => &[],
    }
}
