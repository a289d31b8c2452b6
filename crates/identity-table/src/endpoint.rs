//! What a cluster consists of, as far as a firewall cares: namespaces, service accounts, nodes and
//! endpoints, with their labels and addresses.

use std::fmt;
use std::net::IpAddr;

use crate::Labels;

/// The label that every namespace carries, with its own name as the value.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A cluster at one moment. The order of the lists means nothing.
///
/// ```
/// use portcullis_identity_table::endpoint::{ClusterState, Endpoint, Namespace};
/// let cluster = ClusterState {
///     namespaces: vec![Namespace::new("shop", [("team", "blue")].into_iter().collect())],
///     endpoints: vec![Endpoint {
///         addresses: vec!["10.0.0.1".parse().unwrap()],
///         ..Endpoint::new("shop", "web-0")
///     }],
///     ..ClusterState::default()
/// };
/// assert_eq!(cluster.namespaces[0].labels.value("kubernetes.io/metadata.name"), Some("shop"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterState {
    /// Namespaces; one that only endpoints mention counts as one with no other labels.
    pub namespaces: Vec<Namespace>,
    /// Service accounts; one that only endpoints mention counts as one without labels.
    pub service_accounts: Vec<ServiceAccount>,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Live endpoints: a pod whose phase is Succeeded or Failed owns no address and has no place
    /// here.
    pub endpoints: Vec<Endpoint>,
}

/// A namespace and its labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespace {
    /// Its name.
    pub name: Box<str>,
    /// Its labels, [`NAMESPACE_NAME_LABEL`] included.
    pub labels: Labels,
}

impl Namespace {
    /// A namespace; [`NAMESPACE_NAME_LABEL`] is set to its name, whatever `labels` say.
    pub fn new(name: &str, labels: Labels) -> Self {
        Self { name: name.into(), labels: labels.with(NAMESPACE_NAME_LABEL, name) }
    }
}

/// A service account and its labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceAccount {
    /// The namespace it belongs to.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its labels.
    pub labels: Labels,
}

/// A node, its labels and its own addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Box<str>,
    /// Its labels.
    pub labels: Labels,
    /// The addresses of the node itself.
    pub addresses: Vec<IpAddr>,
}

/// A workload: a pod, or whatever else owns addresses and is a subject of policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The namespace it belongs to.
    pub namespace: Box<str>,
    /// Its name, unique within the namespace.
    pub name: Box<str>,
    /// Its own labels.
    pub labels: Labels,
    /// The service account it runs under.
    pub service_account: Box<str>,
    /// The node it runs on, if known.
    pub node: Option<Box<str>>,
    /// Whether it shares its node's network: its addresses are then the node's, and policy neither
    /// applies to it nor names it.
    pub host_network: bool,
    /// Ports that rules may name.
    pub named_ports: Vec<NamedPort>,
    /// Its addresses, any number of each family.
    pub addresses: Vec<IpAddr>,
}

impl Endpoint {
    /// An endpoint under service account `default`, with nothing else said of it.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            labels: Labels::default(),
            service_account: "default".into(),
            node: None,
            host_network: false,
            named_ports: Vec::new(),
            addresses: Vec::new(),
        }
    }

    /// Its namespace and name, the key under which it is known.
    pub fn key(&self) -> EndpointName {
        EndpointName { namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

/// The name of an endpoint; prints as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointName {
    /// The namespace.
    pub namespace: Box<str>,
    /// The name within the namespace.
    pub name: Box<str>,
}

impl fmt::Display for EndpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A container port with a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// The name that rules use.
    pub name: Box<str>,
    /// IP protocol (IANA number): 6 TCP, 17 UDP, 132 SCTP.
    pub protocol: u8,
    /// The port number, from 1.
    pub port: u16,
}
