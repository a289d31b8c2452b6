//! What each interface offers to AF_XDP.

use std::fs;
use std::path::{Path, PathBuf};

use super::Finding;
use crate::output::Refused;

/// Drivers whose mainline code has AF_XDP zero-copy (kernel sources, `XDP_SETUP_XSK_POOL`).
const ZERO_COPY: [&str; 13] = [
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "mlx5_core",
    "stmmac",
    "st_gmac",
    "nfp",
    "dpaa2-eth",
    "virtio_net",
    "gve",
];
/// Native XDP without fragments needs a packet to fit one page.
const SINGLE_BUFFER_MTU: u32 = 3_506;

/// All interfaces but loopback, sorted.
pub(super) fn names() -> Result<Vec<String>, Refused> {
    let entries = fs::read_dir("/sys/class/net")
        .map_err(|e| format!("error: cannot list interfaces: /sys/class/net: {e}: mount sysfs"))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name != "lo" && Path::new("/sys/class/net").join(name).is_dir())
        .collect();
    names.sort();
    Ok(names)
}

pub(super) fn findings(name: &str) -> Vec<Finding> {
    let path = PathBuf::from("/sys/class/net").join(name);
    if name.contains('/') || !path.is_dir() {
        return vec![Finding::fail(
            name,
            "no such interface",
            "see `ip link` for the names in this network namespace",
        )];
    }
    let driver = driver(&path);
    vec![modes(name, &driver), queues(name, &path), mtu(name, &path)]
}

/// The driver's name; virtual interfaces have no device, so their kind is read from `uevent`.
fn driver(path: &Path) -> String {
    if let Ok(target) = fs::read_link(path.join("device/driver")) {
        return target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    }
    let uevent = fs::read_to_string(path.join("uevent")).unwrap_or_default();
    let kind = uevent.lines().find_map(|line| line.strip_prefix("DEVTYPE="));
    match kind {
        Some(kind) => kind.to_owned(),
        // veth sets no DEVTYPE; its peer's index differs from its own.
        None if fs::read_to_string(path.join("iflink")).ok()
            != fs::read_to_string(path.join("ifindex")).ok() =>
        {
            "veth".to_owned()
        }
        None => "virtual".to_owned(),
    }
}

fn modes(name: &str, driver: &str) -> Finding {
    let what = format!("{name}: modes");
    match driver {
        _ if ZERO_COPY.contains(&driver) => {
            Finding::ok(what, format!("{driver}: native XDP, zero-copy (see what `run` reports)"))
        }
        "veth" => Finding::note(
            what,
            "veth: native XDP, copy mode",
            "zero-copy needs a NIC; copy mode forwards about half a million packets a second a core",
        ),
        _ => Finding::note(
            what,
            format!("{driver}: not known to have zero-copy"),
            "`--mode prefer-zerocopy` takes what there is and says so; `require-zerocopy` refuses",
        ),
    }
}

fn queues(name: &str, path: &Path) -> Finding {
    let count = |kind: &str| {
        fs::read_dir(path.join("queues")).map_or(0, |entries| {
            entries
                .filter_map(Result::ok)
                .filter(|e| e.file_name().to_string_lossy().starts_with(kind))
                .count()
        })
    };
    let (receive, transmit) = (count("rx-"), count("tx-"));
    let found = format!("{receive} receive, {transmit} transmit");
    if receive > transmit {
        return Finding::note(
            format!("{name}: queues"),
            found,
            format!("ethtool -L {name} combined N: every receive queue wants a transmit queue"),
        );
    }
    Finding::ok(format!("{name}: queues"), found)
}

fn mtu(name: &str, path: &Path) -> Finding {
    let what = format!("{name}: MTU");
    let text = fs::read_to_string(path.join("mtu")).unwrap_or_default();
    match text.trim().parse::<u32>() {
        Ok(mtu) if mtu <= SINGLE_BUFFER_MTU => Finding::ok(what, mtu.to_string()),
        Ok(mtu) => Finding::note(
            what,
            mtu.to_string(),
            "above one buffer: needs a driver with XDP fragments, and costs more a packet",
        ),
        Err(_) => Finding::note(what, format!("unreadable: {:?}", text.trim()), ""),
    }
}
