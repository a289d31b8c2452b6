//! The kernel's own filter: nftables rules in a namespace that routes.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use super::policy::SERVICE;
use crate::lab::traffic::{PORT, STREAMS};
use crate::lab::{Namespace, Path};
use crate::output::Refused;

/// Rules one after the other; the last lets through what is sent, the others match other addresses.
pub(super) fn linear(rules: usize) -> String {
    let mut text = chain();
    for n in 1..rules {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 200, 0, 0)) + n as u32);
        let _ = writeln!(text, "ip saddr {address} udp dport {} accept", 10_000 + n % 1000);
    }
    let last = PORT + STREAMS - 1;
    let _ = writeln!(text, "udp dport {{ {SERVICE}, {PORT}-{last} }} accept");
    finish(text)
}

/// One rule: a verdict map of as many addresses and ports.
pub(super) fn verdict_map(entries: usize) -> String {
    let mut text = chain();
    text += "ip saddr . udp dport vmap { ";
    for n in 0..entries {
        let client = n < super::policy::CLIENTS as usize;
        let base = if client { Path::CLIENT } else { Ipv4Addr::new(10, 200, 0, 0) };
        let address = Ipv4Addr::from(u32::from(base) + n as u32);
        let port = if client { PORT } else { 10_000 };
        let _ = write!(text, "{address} . {port} : accept, ");
    }
    let _ = writeln!(text, "{} . {SERVICE} : accept }}", Path::CLIENT);
    finish(text)
}

fn chain() -> String {
    "table ip bench {\nchain forward {\ntype filter hook forward priority 0; policy drop;\n"
        .to_owned()
}

/// TCP to the service and all answers, which in no case are what is measured.
fn finish(mut text: String) -> String {
    let _ = writeln!(text, "tcp dport {SERVICE} accept");
    let _ = writeln!(text, "ip saddr {} accept\n}}\n}}", Path::SERVER);
    text
}

/// Whether there is `nft` at all.
pub(super) fn available() -> bool {
    let version = Command::new("nft").arg("--version").stdout(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// Loads rules in a namespace.
pub(super) fn load(namespace: &Namespace, rules: &str) -> Result<(), Refused> {
    let output = namespace.run(|| -> std::io::Result<_> {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(rules.as_bytes())?;
        }
        child.wait_with_output()
    })??;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    let reason = reason.lines().next().unwrap_or_default();
    Err(Refused::from(format!("error: nft refused the rules: {reason}")))
}
