//! Clusters and policies in versions, and what they make of each stream of the traffic.
//!
//! Cluster and policies of a version belong together: the pods behind the first two streams change
//! their colour from version to version, and the policies the colour that they let in. A packet judged
//! by the addresses of one version and the policies of another is let in or refused where no version
//! does it.

use std::fmt::Write;
use std::net::Ipv4Addr;

use portcullis::identity_table::endpoint::{ClusterState, Endpoint};
use portcullis::policy::{self, Flow, Source, model::PolicySet};

use crate::lab::Path;
use crate::lab::traffic::{PORT, STREAMS};

/// Allowed by every version; refused by a mix of two.
pub(crate) const KEPT: u16 = 0;
/// Refused by every version; allowed by a mix of two.
pub(crate) const REFUSED: u16 = 1;
/// Allowed by even versions.
pub(crate) const EVEN: u16 = 2;
/// Allowed by odd versions.
pub(crate) const ODD: u16 = 3;
/// From an address that every version of the feed holds.
pub(crate) const THREAT: u16 = 4;
/// From an address between those of the feed.
pub(crate) const NO_THREAT: u16 = 5;
/// From an address that even versions of the feed hold.
pub(crate) const SOMETIMES_THREAT: u16 = 6;
/// From an endpoint that comes and goes.
pub(crate) const PASSER: u16 = 7;

/// Pods that the rules of a large set are about.
const CLIENTS: usize = 100;
/// Rules in each policy of a large set.
const RULES_PER_POLICY: usize = 100;

/// The source address of a stream.
pub(crate) fn source(stream: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Path::CLIENT) + u32::from(stream))
}

/// Whether packets of a stream pass while a version of the documents and one of the feed are in
/// force, and the passer is there or not.
pub(crate) fn passes(stream: u16, version: usize, feed: usize, passer: bool) -> bool {
    match stream {
        KEPT | NO_THREAT => true,
        EVEN => version.is_multiple_of(2),
        ODD => !version.is_multiple_of(2),
        SOMETIMES_THREAT => !feed.is_multiple_of(2),
        PASSER => passer,
        _ => false,
    }
}

/// The server, the pods behind the first streams, and those that the rules of a large set are about.
pub(crate) fn cluster(version: usize) -> ClusterState {
    let colours = ["red", "blue"];
    let (colour, other) = (colours[version % 2], colours[(version + 1) % 2]);
    let mut text = pod("server", "server", Path::SERVER);
    text += &pod("kept", colour, source(KEPT));
    text += &pod("refused", other, source(REFUSED));
    text += &pod("even", "even", source(EVEN));
    text += &pod("odd", "odd", source(ODD));
    // One of the passer's kind is always there: others come and go like their siblings.
    text += &pod("standing", "passer", Ipv4Addr::new(10, 77, 2, 1));
    for n in 0..CLIENTS {
        let name = format!("client{n}");
        text += &pod(&name, &name, Ipv4Addr::new(10, 77, 4, n as u8));
    }
    policy::parse_cluster(&[Source::new("cluster", text)]).unwrap().value
}

fn pod(name: &str, app: &str, address: Ipv4Addr) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\nstatus: \
         {{podIP: {address}}}\n"
    )
}

/// Policies for the server. `rules` further ones are about ports that nobody uses, and no two
/// versions have one of them in common.
pub(crate) fn policies(version: usize, rules: usize) -> PolicySet {
    let (colour, parity) =
        if version.is_multiple_of(2) { ("red", "even") } else { ("blue", "odd") };
    let ports = format!("ports: [\"{PORT}:{}\"]", PORT + STREAMS - 1);
    let outside: Vec<_> = (THREAT..PASSER).map(|stream| format!("{}/32", source(stream))).collect();
    let mut text = format!(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {{name: threats, labels: \
         {{threat: \"yes\"}}}}\nspec: {{nets: [{}/32]}}\n",
        source(THREAT)
    );
    begin(&mut text, "threats", 1);
    text += "  - {action: Deny, source: {selector: threat == 'yes'}}\n";
    begin(&mut text, "streams", 2);
    for from in [
        format!("selector: app == '{colour}'"),
        format!("selector: app == '{parity}'"),
        "selector: app == 'passer'".to_owned(),
        format!("nets: [{}]", outside.join(", ")),
    ] {
        let _ = writeln!(
            text,
            "  - {{action: Allow, protocol: UDP, source: {{{from}}}, destination: {{{ports}}}}}"
        );
    }
    let _ = writeln!(
        text,
        "  - {{action: Allow, protocol: UDP, destination: {{ports: [{}]}}}}",
        20_000 + version % 100
    );
    for n in 0..rules {
        let number = n / RULES_PER_POLICY;
        if n % RULES_PER_POLICY == 0 {
            begin(&mut text, &format!("p{number}"), 10 + number);
        }
        let _ = writeln!(
            text,
            "  - {{action: Allow, protocol: UDP, source: {{selector: app == 'client{}'}}, \
             destination: {{ports: [{}]}}}}",
            n % CLIENTS,
            21_000 + number + version % 2 * 1_000
        );
    }
    policy::parse_policies(&[Source::new("policies", text)]).unwrap().value
}

fn begin(text: &mut String, name: &str, order: usize) {
    let _ = writeln!(
        text,
        "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: {name}}}\n\
         spec:\n  order: {order}\n  selector: app == 'server'\n  types: [Ingress]\n  ingress:"
    );
}

/// A pod of the passer's kind.
pub(crate) fn endpoint(name: &str, address: Ipv4Addr, label: Option<&str>) -> Endpoint {
    let labels = [("app", "passer")].into_iter().chain(label.map(|value| ("kind", value)));
    Endpoint {
        labels: labels.collect(),
        addresses: vec![address.into()],
        ..Endpoint::new("default", name)
    }
}

/// A packet from an address to the server, as the traffic has them.
pub(crate) fn flow(from: Ipv4Addr) -> Flow {
    Flow::new(from.into(), Path::SERVER.into(), 17, (4000, PORT + PASSER))
}
