//! A small firewall agent: a wire between two interfaces, policies from a folder, denied flows as
//! JSON lines on standard output.
//!
//! ```text
//! cargo run --release --example rust-agent -- LEFT RIGHT CLUSTER.yaml POLICIES/
//! ```
//! Changed files are applied while packets flow; a bad file leaves the last good set in force.

use std::error::Error;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use nix::poll::{PollFd, PollFlags, poll};
use notify::Watcher;
use portcullis::policy::{LoadError, load_cluster, load_policies};
use portcullis::{Config, Engine, Firewall, FlowEvent, FlowKind, Party};
use serde_json::json;

/// How often the flags are looked at when nothing else happens, in milliseconds.
const LOOK: u16 = 100;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [left, right, cluster, policies] = &args[..] else {
        return Err("usage: rust-agent LEFT RIGHT CLUSTER.yaml POLICIES/".into());
    };
    let files = Files { cluster: cluster.into(), policies: policies.into() };

    // Watch before reading, so that no change falls in between.
    let changed = Arc::new(AtomicBool::new(false));
    let _watcher = files.watch(&changed)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }

    let (cluster, policies) = files.read()?;
    let firewall = Firewall::start(Config::wire(left, right), cluster, policies)?;
    for port in firewall.ports() {
        eprintln!("{}: {}, {} queues", port.name, port.mode, port.queues);
    }
    eprintln!("ready");

    while !stop.load(Ordering::Relaxed) {
        // An event loop would wait for this descriptor beside its others.
        let mut waiting = [PollFd::new(firewall.as_fd(), PollFlags::POLLIN)];
        // A signal interrupts the waiting, and the flags tell which one it was.
        let _ = poll(&mut waiting, LOOK);
        firewall.events(|event| {
            if event.kind == FlowKind::Dropped {
                println!("{}", denied(&event));
            }
        });
        for port in firewall.port_changes()? {
            eprintln!("{}: {}", port.name, port.state.as_str());
        }
        if changed.swap(false, Ordering::Relaxed) {
            match files.apply(&firewall) {
                Ok(()) => eprintln!("applied {}", firewall.applied().generation),
                Err(error) => eprintln!("{error}\nthe last good set stays in force"),
            }
        }
    }
    let totals = firewall.totals();
    eprintln!("{} packets in, {} forwarded", totals.received, totals.forwarded);
    firewall.shutdown();
    Ok(())
}

/// Where the documents are.
struct Files {
    cluster: PathBuf,
    policies: PathBuf,
}

type Documents = (portcullis::identity_table::ClusterState, portcullis::policy::model::PolicySet);

impl Files {
    fn read(&self) -> Result<Documents, LoadError> {
        Ok((load_cluster(&self.cluster)?.value, load_policies([&self.policies])?.value))
    }

    fn apply(&self, engine: &Engine) -> Result<(), Box<dyn Error>> {
        let (cluster, policies) = self.read()?;
        engine.apply(cluster, policies)?;
        Ok(())
    }

    /// Raises `changed` when something happens in the folders of the documents.
    fn watch(&self, changed: &Arc<AtomicBool>) -> notify::Result<notify::RecommendedWatcher> {
        let raise = Arc::clone(changed);
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                if !event.is_ok_and(|event| event.kind.is_access()) {
                    raise.store(true, Ordering::Relaxed);
                }
            })?;
        for path in [&self.cluster, &self.policies] {
            let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            watcher.watch(folder, notify::RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    }
}

fn denied(event: &FlowEvent) -> serde_json::Value {
    let party = |party: &Party| party.name().map(|(namespace, name)| format!("{namespace}/{name}"));
    json!({
        "time": event.time.duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64()),
        "source": event.source.to_string(),
        "destination": event.destination.to_string(),
        "protocol": event.protocol,
        "from": party(&event.from),
        "to": party(&event.to),
        "reason": event.reason.map(|reason| reason.as_str()),
        "policy": event.policy,
    })
}
