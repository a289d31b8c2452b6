//! Settings of `portcullis run`: a YAML file, overridden by flags.
//!
//! ```yaml
//! wire: eth1:eth2          # interfaces to join, with rings for an uplink
//! wires: [veth1:veth1p, veth2:veth2p]   # more of them, of 1 MiB each; as the file changes, they come and go
//! hairpins: [eth3]         # what comes in there leaves there
//! switches: ["eth4,eth5,eth6"]   # what comes in leaves where its destination spoke last
//! cluster: cluster.yaml    # paths are relative to this file
//! policies: [policies/]
//! fail: closed             # or open
//! mode: prefer-zerocopy
//! workers: 1
//! flow-log: flows.jsonl     # a JSON line for each connection and each packet dropped
//! control: /run/portcullis/eth1-eth2.sock   # where `portcullis status` asks
//! metrics: 127.0.0.1:9095   # or the path of a unix socket
//! arp: pass                # or drop
//! neighbour-discovery: pass
//! other-non-ip: drop       # or pass
//! early-drop: feed.txt     # prefixes, one a line, whose packets the kernel drops at once
//! state: {file: /var/lib/portcullis/eth1-eth2, every-seconds: 10}   # connections, kept over a restart
//! status-line: 10          # seconds between two lines of what passes; 0: none
//! machine:                 # all of it may be left out
//!   cpus: [2, 3]           # one for each worker
//!   nice: -20              # of the workers
//!   huge-pages: prefer     # or require, never
//!   numa: interfaces       # or any, or the number of a node
//!   busy-poll: {microseconds: 20, budget: 64}
//!   pins: /sys/fs/bpf/portcullis   # the programs outlive the process: docs/failure-modes.md
//! flows:                   # docs/flow-records.md; all of it may be left out
//!   records: all           # or none, denied, 1/100
//!   policies: [{policies: NetworkPolicy/shop/*, records: denied}]
//!   update-seconds: 60     # 0: never
//!   format: json           # or hubble
//!   file: {max-bytes: 67108864, keep: 4, fsync: rotate}   # or never; fsync-seconds: 1
//! stage: [next/]           # policies to judge beside, without effect
//! packets:                 # all of it may be left out
//!   connections: 262144    # room for so many at a time
//!   limits: {connections: 10000, half-open: 500, new-per-second: 1000, burst: 2000}  # of each identity;
//!                          # half-open-in-all: 10000 is of all together
//!   denied: drop           # or reject: senders are told
//!   tracking:              # docs/connections.md; all of it may be left out
//!     on-full: deny-new            # or evict-oldest
//!     on-policy-change: rejudge    # or keep, cut
//!     pick-up: false               # true: connections that began before this did go on if allowed
//!     timeouts: {tcp-established: 7440, udp: 180}   # seconds of silence; the others alike
//!     fragments: {packets: 4096, held-bytes: 1048576, seconds: 15}
//!   tunnels:               # judged by what they carry
//!     - {kind: vxlan, port: 4789, vni: 42, zone: 1}   # no vni: all of the port's; vxlan, geneve, ip
//!   rates:                 # token buckets; packets beyond are dropped
//!     identity: {packets-per-second: 100000, burst: 200000}   # or bytes-per-second
//!     rules:               # of each of a policy's rules; direction and rule (from 0) narrow it
//!       - {policy: NetworkPolicy/shop/web, direction: ingress, rule: 0, bytes-per-second: 1000000}
//!   mirror:                # copies of packets to another interface
//!     {to: eth3, verdicts: [deny], rules: [{policy: NetworkPolicy/shop/web}]}   # neither: all
//! zones:                   # tenants whose tunnels say so, with addresses of their own
//!   - {number: 1, cluster: tenant/cluster.yaml, policies: [tenant/policies/]}
//! ```

use std::path::{Path, PathBuf};

use portcullis::dataplane::port::xdp::{FailureMode, ModePolicy};
use portcullis::{Config, Topology};
use serde::Deserialize;

use super::Args;
use super::early_drop;
use super::flows::Flows;
use super::pipeline::Packets;
use super::socket::Addresses;
use super::state::State;
use super::system::Machine;
use super::wires::Wanted;
use super::zone::{self, ZoneEntry};
use crate::output::Refused;

/// The settings in force.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) cluster: PathBuf,
    pub(super) policies: Vec<PathBuf>,
    pub(super) mode: ModePolicy,
    pub(super) fail: FailureMode,
    pub(super) flow_log: Option<PathBuf>,
    pub(super) addresses: Addresses,
    pub(super) early_drop: Option<PathBuf>,
    pub(super) state: State,
    pub(super) status_line: Option<u32>,
    pub(super) flows: Flows,
    pub(super) stage: Vec<PathBuf>,
    pub(super) machine: Machine,
    pub(super) wires: Vec<Topology>,
    workers: usize,
    frames: [Frames; 3],
    pub(super) packets: Packets,
    pub(super) zones: Vec<ZoneEntry>,
}

/// The file, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    wire: Option<String>,
    wires: Option<Vec<String>>,
    hairpins: Vec<String>,
    switches: Vec<String>,
    cluster: Option<PathBuf>,
    policies: Vec<PathBuf>,
    fail: Option<String>,
    mode: Option<String>,
    workers: Option<usize>,
    flow_log: Option<PathBuf>,
    control: Option<PathBuf>,
    metrics: Option<String>,
    arp: Option<Frames>,
    neighbour_discovery: Option<Frames>,
    other_non_ip: Option<Frames>,
    early_drop: Option<PathBuf>,
    state: State,
    status_line: Option<u32>,
    flows: Flows,
    stage: Vec<PathBuf>,
    machine: Machine,
    packets: Packets,
    zones: Vec<ZoneEntry>,
}

/// What happens to frames that no policy speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Frames {
    Pass,
    Drop,
}

impl Settings {
    /// Flags over file over defaults.
    ///
    /// # Errors
    /// What is missing or wrong, with the file's line where there is one.
    pub(super) fn merge(args: Args) -> Result<Self, Refused> {
        let file = match &args.config {
            Some(path) => File::read(path)?,
            None => File::default(),
        };
        let missing = |name: &str| {
            let file = args.config.as_deref().unwrap_or(Path::new("command line")).display();
            Refused::from(format!("error: {file}: no {name}: give `{name}:` or --{name}"))
        };
        let policies = if args.policies.is_empty() { file.policies } else { args.policies };
        if policies.is_empty() {
            return Err(missing("policies"));
        }
        let listed = file.wires.is_some();
        let wires = file.wires.unwrap_or_default();
        let flags = Wanted { hairpins: &args.hairpin, switches: &args.switch, ..Wanted::default() };
        let wanted = match &args.wire[..] {
            [] if args.hairpin.is_empty() && args.switch.is_empty() => Wanted {
                wire: file.wire.as_deref(),
                wires: &wires,
                hairpins: &file.hairpins,
                switches: &file.switches,
            },
            [one] => Wanted { wire: Some(one), ..flags },
            several => Wanted { wires: several, ..flags },
        };
        let wires = wanted.topologies()?;
        if wires.is_empty() && !listed {
            return Err(missing("wire"));
        }
        Ok(Self {
            wires,
            cluster: args.cluster.or(file.cluster).ok_or_else(|| missing("cluster"))?,
            policies,
            mode: args
                .mode
                .or(file.mode)
                .as_deref()
                .unwrap_or("prefer-zerocopy")
                .parse()
                .map_err(|e| format!("error: {e}"))?,
            fail: failure(args.fail.or(file.fail).as_deref().unwrap_or("closed"))?,
            workers: args.workers.or(file.workers).unwrap_or(1),
            flow_log: args.flow_log.or(file.flow_log),
            addresses: Addresses {
                control: args.control.or(file.control),
                metrics: args.metrics.or(file.metrics),
            },
            early_drop: args.early_drop.or(file.early_drop),
            state: file.state.merge(args.state),
            status_line: args.status_line.or(file.status_line),
            flows: file.flows.merge(args.flow_format, args.flow_records),
            stage: if args.stage.is_empty() { file.stage } else { args.stage },
            machine: file.machine.merge(args.machine),
            frames: [
                file.arp.unwrap_or(Frames::Pass),
                file.neighbour_discovery.unwrap_or(Frames::Pass),
                file.other_non_ip.unwrap_or(Frames::Drop),
            ],
            packets: file.packets,
            zones: file.zones,
        })
    }

    /// What it is called: its first wire.
    pub(super) fn name(&self) -> &str {
        self.wires.first().map_or("portcullis", Topology::name)
    }

    /// Whether only the wires of the two differ, which is all that can change while packets flow.
    pub(super) fn same_but_wires(&self, other: &Self) -> bool {
        *self == Self { wires: self.wires.clone(), ..other.clone() }
    }

    /// What the firewall is started with.
    ///
    /// # Errors
    /// Settings that contradict themselves.
    pub(super) fn firewall(&self) -> Result<Config, Refused> {
        if self.workers == 0 {
            return Err("error: workers 0: at least one is needed".into());
        }
        zone::check(&self.zones, &self.packets.zones())?;
        self.packets.rates.rates()?;
        let [arp, discovery, other] = self.frames.map(|frames| frames == Frames::Pass);
        let mut wrong = None;
        let config = self.wires.iter().cloned().fold(Config::idle(), Config::with);
        let config = config.workers(self.workers).mode(self.mode).failure(self.fail);
        let config = config.pipeline(|pipeline| {
            pipeline.pass_arp = arp;
            pipeline.pass_neighbour_discovery = discovery;
            pipeline.pass_non_ip = other;
            pipeline.denied_burst = Some(self.flows.burst());
            wrong = self.packets.apply(pipeline).err();
        });
        let config = config.engine(|engine| engine.reject_denied = self.packets.rejects());
        if let Some(error) = wrong {
            return Err(error.into());
        }
        let capacity = if self.early_drop.is_some() { early_drop::CAPACITY } else { 0 };
        let config = config.ports(|ports| ports.early_drop_capacity = capacity);
        let config = match &self.packets.mirror {
            Some(mirror) => config.mirror_to(&mirror.to),
            None => config,
        };
        Ok(self.machine.apply(config)?)
    }
}

impl File {
    fn read(path: &Path) -> Result<Self, Refused> {
        let text =
            std::fs::read_to_string(path).map_err(|e| format!("error: {}: {e}", path.display()))?;
        let mut file: Self = yaml_serde::from_str(&text).map_err(|e| {
            let at =
                e.location().map_or(String::new(), |l| format!(":{}:{}", l.line(), l.column()));
            format!("{}{at}: error: {e}", path.display())
        })?;
        // Paths mean the same wherever the command is started.
        let folder = path.parent().unwrap_or(Path::new(""));
        let flow_log = file.flow_log.as_mut().filter(|path| **path != Path::new("-"));
        for path in file
            .policies
            .iter_mut()
            .chain(&mut file.stage)
            .chain(&mut file.cluster)
            .chain(flow_log)
            .chain(&mut file.control)
            .chain(&mut file.early_drop)
        {
            *path = folder.join(&path);
        }
        file.state.below(folder);
        file.machine.below(folder);
        file.zones.iter_mut().for_each(|zone| zone.below(folder));
        Ok(file)
    }
}

fn failure(text: &str) -> Result<FailureMode, Refused> {
    match text {
        "closed" => Ok(FailureMode::Closed),
        "open" => Ok(FailureMode::Open),
        _ => Err(format!("error: fail {text:?}: expected closed or open").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Settings, String> {
        // Tests run beside one another.
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("portcullis-config-{}-{number}.yaml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        let args = Args {
            wire: Vec::new(),
            hairpin: Vec::new(),
            switch: Vec::new(),
            cluster: None,
            policies: Vec::new(),
            fail: None,
            mode: None,
            workers: None,
            flow_log: None,
            flow_format: None,
            flow_records: None,
            stage: Vec::new(),
            control: None,
            metrics: None,
            early_drop: None,
            state: None,
            status_line: None,
            machine: Default::default(),
            config: Some(path.clone()),
        };
        let result = Settings::merge(args).and_then(|s| s.firewall().map(|_| s));
        std::fs::remove_file(path).unwrap();
        result.map_err(|e| e.message().to_owned())
    }

    #[test]
    fn a_file_says_everything_that_flags_say() {
        let settings = settings(
            "wire: a:b\ncluster: c.yaml\npolicies: [p]\nfail: open\nmode: require-copy\nworkers: 2\n\
             arp: drop\nearly-drop: feed\nstate: {file: connections, every-seconds: 1}\n\
             machine: {cpus: [1, 0], nice: 5, huge-pages: prefer, numa: 0, busy-poll: {microseconds: 20}, pins: p}\n\
             packets: {connections: 9, limits: {new-per-second: 5}, tunnels: [{kind: vxlan}, {kind: ip}],\n  \
             denied: reject, tracking: {pick-up: true, timeouts: {udp: 5}}}\n",
        )
        .unwrap();
        assert!(settings.cluster.ends_with("c.yaml") && settings.cluster.is_absolute());
        assert!(settings.state.file.as_ref().is_some_and(|file| file.is_absolute()));
        assert_eq!(settings.mode.to_string(), "require-copy");
        assert_eq!((settings.fail, settings.workers), (FailureMode::Open, 2));
        assert_eq!(settings.wires, [Topology::wire("a", "b")]);
        assert_eq!(settings.frames, [Frames::Drop, Frames::Pass, Frames::Drop]);
    }

    #[test]
    fn wires_may_change_and_nothing_else() {
        let rest = "cluster: c\npolicies: [p]\n";
        let none = settings(&format!("wires: []\n{rest}")).unwrap();
        assert!(none.wires.is_empty());
        let some = settings(&format!("wire: a:b\nwires: [c:d]\nhairpins: [e]\n{rest}")).unwrap();
        assert_eq!(some.wires.len(), 3);
        assert!(some.same_but_wires(&none));
        let more = settings(&format!("wires: []\nworkers: 2\n{rest}")).unwrap();
        assert!(!more.same_but_wires(&none));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expected) in [
            ("wire: a:b\ncluster: c\n", "no policies"),
            ("cluster: c\npolicies: [p]\n", "no wire"),
            ("wires: [a:b, c:b]\ncluster: c\npolicies: [p]\n", "interface b"),
            ("wire: a\ncluster: c\npolicies: [p]\n", "two interfaces"),
            ("wire: a:b:c\ncluster: c\npolicies: [p]\n", "two interfaces"),
            ("wire: a:b\ncluster: c\npolicies: [p]\nfail: ajar\n", "closed or open"),
            ("wire: a:b\ncluster: c\npolicies: [p]\nmode: fast\n", "prefer-zerocopy"),
            ("wire: a:b\ncluster: c\npolicies: [p]\nworkers: 0\n", "at least one"),
            ("wire: a:b\nwhire: x\n", "whire"),
            ("wire: a:b\nstate: {fail: x}\n", "fail"),
            (
                "wire: a:b\ncluster: c\npolicies: [p]\nmachine: {huge-pages: maybe}\n",
                "never, prefer",
            ),
            ("wire: a:b\ncluster: c\npolicies: [p]\nmachine: {numa: near}\n", "interfaces or any"),
            (
                "wire: a:b\ncluster: c\npolicies: [p]\nmachine: {busy-poll: {microseconds: 0}}\n",
                "at least 1",
            ),
            ("wire: a:b\nmachine: {cpu: 1}\n", "cpu"),
            (
                "wire: a:b\ncluster: c\npolicies: [p]\nzones: [{number: 1, cluster: c, policies: [p]}]\n",
                "no tunnel leads to it",
            ),
            (
                "wire: a:b\ncluster: c\npolicies: [p]\npackets: {tunnels: [{kind: ip, zone: 2}]}\n",
                "zone 2 is not there",
            ),
            ("wire: a:b\nzones: [{number: 0, cluster: c, policies: []}]\n", "nonzero"),
            (
                "wire: a:b\ncluster: c\npolicies: [p]\npackets: {rates: {identity: {burst: 1}}}\n",
                "packets-per-second or bytes-per-second",
            ),
            ("wire: a:b\npackets: {rates: {rules: [{policy: x, per-second: 1}]}}\n", "per-second"),
            ("wire: a:b\npackets: {mirror: {to: c, verdicts: [maybe]}}\n", "maybe"),
            (
                "wire: a:b\ncluster: c\npolicies: [p]\npackets: {limits: {burst: 3}}\n",
                "new-per-second",
            ),
            ("wire: a:b\ncluster: c\npolicies: [p]\npackets: {connections: 0}\n", "connections 0"),
            (
                "wire: a:b\ncluster: c\npolicies: [p]\npackets: {tunnels: [{kind: vxlan, vni: 16777216}]}\n",
                "24 bits",
            ),
            (
                "wire: a:b\ncluster: c\npolicies: [p]\npackets: {tunnels: [{kind: ip, port: 1}]}\n",
                "neither port nor vni",
            ),
            ("wire: a:b\npackets: {tunnels: [{kind: gre}]}\n", "gre"),
            ("wire: a:b\npackets: {denied: allow}\n", "allow"),
            ("wire: a:b\npackets: {tracking: {timeouts: {arp: 1}}}\n", "arp"),
            (
                "wire: a:b\ncluster: c\npolicies: [p]\npackets: {tracking: {timeouts: {udp: 0}}}\n",
                "timeouts: udp 0",
            ),
        ] {
            let error = settings(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
