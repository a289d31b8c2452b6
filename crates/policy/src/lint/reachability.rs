//! Workloads that cannot reach what they need, or can reach what they should not.

use std::collections::BTreeMap;
use std::net::IpAddr;

use portcullis_identity_table::identity::{ClassId, Owner};

use super::{Code, Finding, Level, Scene};
use crate::atlas::AddressClass;
use crate::diff::{By, Side};
use crate::flow::{Header, Verdict, protocol};
use crate::group::Group;
use crate::model::{IpVersion, Origin};
use crate::view::is_workload;

/// Ports of the control plane on its nodes: API server, etcd, kubelet, controller manager, scheduler.
const CONTROL_PLANE: [(u16, &str); 6] = [
    (6443, "the API server"),
    (2379, "etcd"),
    (2380, "etcd's peers"),
    (10250, "the kubelet"),
    (10257, "the controller manager"),
    (10259, "the scheduler"),
];

/// Where clouds hand out credentials.
const METADATA: [&str; 2] = ["169.254.169.254", "fd00:ec2::254"];

/// The namespace of the cluster's own workloads.
const SYSTEM: &str = "kube-system";

pub(super) fn check(scene: &Scene<'_>, findings: &mut Vec<Finding>) {
    let workloads: Vec<&AddressClass> = scene
        .atlas
        .classes
        .iter()
        .filter(|class| scene.view.class(class.ids[0]).is_some_and(|class| is_workload(class)))
        .collect();
    dns(scene, &workloads, findings);
    control_plane(scene, &workloads, findings);
    metadata(scene, &workloads, findings);
}

/// Pods gathered by what decided about them.
type ByDecider = BTreeMap<Option<By>, Group>;

impl Scene<'_> {
    /// The decision between two classes.
    fn decide(&self, source: &AddressClass, destination: ClassId, ask: (u8, u16)) -> Decided {
        let version = if source.is_v4() { IpVersion::V4 } else { IpVersion::V6 };
        let header = Header {
            ip_version: version,
            protocol: ask.0,
            source_port: 40000,
            destination_port: ask.1,
        };
        let (verdict, by) =
            Side::new(self.view, (source.ids[0], destination), false).decide(&header);
        Decided { verdict, by }
    }

    fn add(&self, to: &mut ByDecider, by: Option<By>, class: &AddressClass) {
        let group = to.entry(by).or_default();
        for &address in &class.hosts {
            group.add_host(address, self.views, &self.census);
        }
    }

    /// Where the decider is written, and its name.
    fn place(&self, by: Option<By>) -> (Option<Origin>, String) {
        match by.and_then(|by| crate::diff::decided_by(self.policies, by)) {
            Some(by) => (Some(by.origin.clone()), by.to_string()),
            None => (None, "no policy".to_owned()),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Decided {
    verdict: Verdict,
    by: Option<By>,
}

/// Whoever cannot ask any DNS pod.
fn dns(scene: &Scene<'_>, workloads: &[&AddressClass], findings: &mut Vec<Finding>) {
    let servers: Vec<&AddressClass> = workloads
        .iter()
        .copied()
        .filter(|class| match scene.view.class(class.ids[0]).map(|class| &class.owner) {
            Some(Owner::Workload(workload)) => {
                workload.labels.value("k8s-app") == Some("kube-dns")
                    || workload.labels.value("app.kubernetes.io/name") == Some("coredns")
            }
            _ => false,
        })
        .collect();
    let mut cut = ByDecider::new();
    for class in workloads {
        let near: Vec<Decided> = servers
            .iter()
            .filter(|server| server.is_v4() == class.is_v4() && server.ids != class.ids)
            .map(|server| scene.decide(class, server.ids[0], (protocol::UDP, 53)))
            .collect();
        if let Some(first) = near.first()
            && near.iter().all(|decided| decided.verdict == Verdict::Deny)
        {
            scene.add(&mut cut, first.by, class);
        }
    }
    for (by, group) in cut {
        let (origin, policy) = scene.place(by);
        findings.push(Finding {
            level: Level::Warning,
            code: Code::DnsCut,
            origin,
            message: format!("{group} cannot resolve names (UDP 53 to DNS): denied by {policy}"),
        });
    }
}

/// System workloads that reach no node on a port of the control plane, and others that do not reach
/// the API server; system workloads that serve such a port and are reached by no node.
fn control_plane(scene: &Scene<'_>, workloads: &[&AddressClass], findings: &mut Vec<Finding>) {
    let nodes: Vec<&AddressClass> = scene
        .atlas
        .classes
        .iter()
        .filter(|class| {
            let class = scene.view.class(class.ids[0]);
            class.is_some_and(|class| matches!(class.owner, Owner::Node { .. }))
        })
        .collect();
    for (port, what) in CONTROL_PLANE {
        let mut system = ByDecider::new();
        let mut others = ByDecider::new();
        let mut servers = ByDecider::new();
        for class in workloads {
            let Some(Owner::Workload(workload)) =
                scene.view.class(class.ids[0]).map(|class| &class.owner)
            else {
                continue;
            };
            let is_system = *workload.namespace.name == *SYSTEM;
            let near = nodes.iter().filter(|node| node.is_v4() == class.is_v4());
            let to_nodes: Vec<Decided> = near
                .clone()
                .map(|node| scene.decide(class, node.ids[0], (protocol::TCP, port)))
                .collect();
            if let Some(by) = cut_off(&to_nodes) {
                if is_system {
                    scene.add(&mut system, by, class);
                } else if port == 6443 {
                    scene.add(&mut others, by, class);
                }
            }
            let serves =
                workload.named_ports.iter().any(|p| p.protocol == protocol::TCP && p.port == port);
            if serves {
                let from_nodes: Vec<Decided> = near
                    .map(|node| scene.decide(node, class.ids[0], (protocol::TCP, port)))
                    .collect();
                if let Some(by) = cut_off(&from_nodes) {
                    scene.add(&mut servers, by, class);
                }
            }
        }
        let mut report = |cut: ByDecider, level, code, before: &str, after: &str| {
            for (by, group) in cut {
                let (origin, policy) = scene.place(by);
                let message = format!("{before}{group} {after} (TCP {port}): denied by {policy}");
                findings.push(Finding { level, code, origin, message });
            }
        };
        let cannot = format!("cannot reach {what} on any node");
        report(system, Level::Warning, Code::ControlPlaneCut, "", &cannot);
        report(others, Level::Note, Code::ApiServerCut, "", &cannot);
        let unreached = format!("of {what}");
        report(
            servers,
            Level::Warning,
            Code::ControlPlaneCut,
            "no other node reaches ",
            &unreached,
        );
    }
}

/// What denied, if everything was denied.
fn cut_off(decisions: &[Decided]) -> Option<Option<By>> {
    let all = decisions.iter().all(|decided| decided.verdict == Verdict::Deny);
    decisions.first().filter(|_| all).map(|decided| decided.by)
}

/// Whoever can ask the cloud for credentials.
fn metadata(scene: &Scene<'_>, workloads: &[&AddressClass], findings: &mut Vec<Finding>) {
    for text in METADATA {
        let Ok(address) = text.parse::<IpAddr>() else { continue };
        let destination = scene.view.class_id(address);
        let mut open = ByDecider::new();
        for class in workloads.iter().filter(|class| class.is_v4() == address.is_ipv4()) {
            let decided = scene.decide(class, destination, (protocol::TCP, 80));
            if decided.verdict == Verdict::Allow {
                scene.add(&mut open, decided.by, class);
            }
        }
        for (by, group) in open {
            let (origin, policy) = scene.place(by);
            let why = if by.is_some() { "allowed by" } else { "denied by" };
            findings.push(Finding {
                level: Level::Warning,
                code: Code::MetadataReachable,
                origin,
                message: format!(
                    "{group} can reach the metadata service of the cloud at {text} (TCP 80): \
                     {why} {policy}"
                ),
            });
        }
    }
}
