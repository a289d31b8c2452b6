//! The cluster and the policies of the measured wire.

use std::fmt::Write;

use portcullis::identity_table::endpoint::ClusterState;
use portcullis::policy::model::PolicySet;
use portcullis::policy::{self, Source};

use crate::lab::Path;
use crate::lab::traffic::{PORT, STREAMS};
use crate::output::Refused;

/// Clients that generated packets come from; each has an identity of its own.
pub(in super::super) const CLIENTS: u32 = 100;
/// Port of the TCP sink and of the UDP echo.
pub(in super::super) const SERVICE: u16 = 7000;
/// Rules in each policy of a large set.
const RULES_PER_POLICY: usize = 100;

/// The server, and clients whose addresses follow each other.
pub(in super::super) fn cluster() -> Result<ClusterState, Refused> {
    let mut text = pod("server", &Path::SERVER.to_string());
    let first = u32::from(Path::CLIENT);
    for n in 0..CLIENTS {
        let address = std::net::Ipv4Addr::from(first + n).to_string();
        text += &pod(&format!("client{n}"), &address);
    }
    Ok(policy::parse_cluster(&[Source::new("cluster", text)])?.value)
}

fn pod(name: &str, address: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}, role: \
         {}}}}}\nstatus: {{podIP: {address}}}\n",
        name.trim_end_matches(|c: char| c.is_ascii_digit())
    )
}

/// `rules` ingress rules for the server, of which the last lets the clients reach the generated
/// streams and the services; the others are about ports that nobody uses.
pub(in super::super) fn policies(rules: usize) -> Result<PolicySet, Refused> {
    let mut text = String::new();
    let others = rules.saturating_sub(1);
    for first in (0..others).step_by(RULES_PER_POLICY) {
        begin(&mut text, &format!("p{}", first / RULES_PER_POLICY));
        for n in first..others.min(first + RULES_PER_POLICY) {
            let client = n as u32 % CLIENTS;
            let port = 10_000 + n / RULES_PER_POLICY;
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "  - {{from: [{{podSelector: {{matchLabels: {{app: client{client}}}}}}}], \
                 ports: [{{port: {port}, protocol: UDP}}]}}"
            );
        }
    }
    begin(&mut text, "streams");
    let last = PORT + STREAMS - 1;
    let _ = writeln!(
        text,
        "  - {{from: [{{podSelector: {{matchLabels: {{role: client}}}}}}], ports: [\
         {{port: {PORT}, endPort: {last}, protocol: UDP}}, {{port: {SERVICE}, protocol: UDP}}, \
         {{port: {SERVICE}}}]}}"
    );
    Ok(policy::parse_policies(&[Source::new("policies", text)])?.value)
}

fn begin(text: &mut String, name: &str) {
    let _ = writeln!(
        text,
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\n\
         spec:\n  podSelector: {{matchLabels: {{app: server}}}}\n  ingress:"
    );
}
