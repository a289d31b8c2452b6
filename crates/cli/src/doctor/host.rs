//! Kernel, privileges and limits.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};

use super::Finding;

/// The oldest kernel whose AF_XDP has all that the ports rely on (XDP fragments, bpf_link).
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// Capabilities by bit number (capabilities(7)) and what needs them.
const CAPABILITIES: [(u32, &str, &str); 3] = [
    (12, "CAP_NET_ADMIN", "to attach the XDP program"),
    (13, "CAP_NET_RAW", "to open AF_XDP sockets"),
    (39, "CAP_BPF", "to load the XDP program"),
];
const CAP_SYS_ADMIN: u32 = 21;
const CAP_IPC_LOCK: u32 = 14;

pub(super) fn findings() -> Vec<Finding> {
    let mut findings = vec![kernel(), af_xdp(), jit()];
    findings.extend(capabilities());
    findings.push(memlock());
    findings
}

fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let (major, minor) = OLDEST_KERNEL;
    match version(release) {
        Some(found) if found >= OLDEST_KERNEL => Finding::ok("kernel", release),
        Some(_) => Finding::fail(
            "kernel",
            release,
            format!("use Linux {major}.{minor} or newer: older ones lack XDP fragments"),
        ),
        None => Finding::note(
            "kernel",
            format!("unreadable release {release:?}"),
            format!("Linux {major}.{minor} or newer is needed"),
        ),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn af_xdp() -> Finding {
    let protocols = fs::read_to_string("/proc/net/protocols").unwrap_or_default();
    if protocols.lines().any(|line| line.starts_with("XDP")) {
        Finding::ok("AF_XDP sockets", "in this kernel")
    } else {
        Finding::fail(
            "AF_XDP sockets",
            "not in this kernel",
            "use a kernel built with CONFIG_XDP_SOCKETS=y",
        )
    }
}

fn jit() -> Finding {
    match fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").as_deref().map(str::trim) {
        Ok("0") => Finding::note(
            "BPF JIT",
            "off",
            "sysctl net.core.bpf_jit_enable=1: the XDP program is interpreted until then",
        ),
        Ok(_) => Finding::ok("BPF JIT", "on"),
        Err(_) => Finding::ok("BPF JIT", "always on or not readable"),
    }
}

fn capabilities() -> Vec<Finding> {
    let effective = effective_capabilities();
    let has = |bit: u32| effective & (1 << bit) != 0;
    CAPABILITIES
        .iter()
        .map(|&(bit, name, why)| {
            if has(bit) || has(CAP_SYS_ADMIN) {
                Finding::ok(name, "held")
            } else {
                Finding::fail(
                    name,
                    "missing",
                    format!("run as root, or grant it (setcap, securityContext): needed {why}"),
                )
            }
        })
        .collect()
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

fn memlock() -> Finding {
    const MIB: u64 = 1024 * 1024;
    let locks_anything = effective_capabilities() & (1 << CAP_IPC_LOCK) != 0;
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((soft, _)) if locks_anything || soft >= 256 * MIB => {
            let limit =
                if soft == u64::MAX { "unlimited".into() } else { format!("{} MiB", soft / MIB) };
            let note = if locks_anything { " (CAP_IPC_LOCK lifts it)" } else { "" };
            Finding::ok("locked memory", format!("limit {limit}{note}"))
        }
        Ok((soft, _)) => Finding::note(
            "locked memory",
            format!("limit {} MiB", soft / MIB),
            "raise it (ulimit -l, LimitMEMLOCK=) or grant CAP_IPC_LOCK: packet memory is locked",
        ),
        Err(error) => Finding::note("locked memory", format!("not readable: {error}"), ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_read() {
        assert_eq!(version("6.18.44-fc-v769"), Some((6, 18)));
        assert_eq!(version("5.15"), Some((5, 15)));
        assert_eq!(version("rolling"), None);
        assert!(version("6.1.0") >= Some(OLDEST_KERNEL));
        assert!(version("5.19.0") < Some(OLDEST_KERNEL));
    }
}
