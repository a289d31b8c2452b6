//! Which interfaces are joined: from flags and file, and kept so while packets flow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use portcullis::{Firewall, PortInfo, Topology};

use crate::output::Refused;

/// What flags or file say.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted<'a> {
    /// One wire, with rings for an uplink.
    pub(super) wire: Option<&'a str>,
    /// Wires to pods, with small rings.
    pub(super) wires: &'a [String],
    pub(super) hairpins: &'a [String],
    /// Interfaces with commas between them.
    pub(super) switches: &'a [String],
}

impl Wanted<'_> {
    /// What is to be joined.
    ///
    /// # Errors
    /// A wire that does not name two interfaces, or an interface in two places.
    pub(super) fn topologies(&self) -> Result<Vec<Topology>, Refused> {
        let mut all = Vec::new();
        if let Some(text) = self.wire {
            all.push(wire(text)?);
        }
        for text in self.wires {
            all.push(wire(text)?.small());
        }
        for interface in self.hairpins {
            if interface.is_empty() || interface.contains(':') {
                return Err(format!(
                    "error: hairpin {interface:?}: expected one interface, such as eth3"
                )
                .into());
            }
            all.push(Topology::hairpin(interface));
        }
        for text in self.switches {
            let interfaces: Vec<&str> = text.split(',').map(str::trim).collect();
            if interfaces.len() < 2 || interfaces.iter().any(|name| name.is_empty()) {
                return Err(format!(
                    "error: switch {text:?}: expected interfaces, such as eth4,eth5,eth6"
                )
                .into());
            }
            all.push(Topology::switch(&interfaces.join(","), &interfaces).small());
        }
        let mut seen = BTreeMap::new();
        for topology in &all {
            for interface in topology.interfaces() {
                if let Some(other) = seen.insert(interface, topology.name()) {
                    return Err(format!(
                        "error: interface {interface}: both in {other} and in {}",
                        topology.name()
                    )
                    .into());
                }
            }
        }
        Ok(all)
    }
}

fn wire(text: &str) -> Result<Topology, Refused> {
    let two = text.split_once(':');
    let two = two.filter(|(a, b)| !a.is_empty() && !b.is_empty() && !b.contains(':'));
    let (a, b) = two.ok_or_else(|| {
        format!("error: wire {text:?}: expected two interfaces, such as eth1:eth2")
    })?;
    Ok(Topology::wire(a, b))
}

/// A port for the line `ready` and for wires that come later.
pub(super) fn describe(port: &PortInfo) -> String {
    format!("{} {} ({} queues, MTU {})", port.name, port.mode, port.queues, port.mtu)
}

/// Lets this process have as many descriptors as it may: a wire of one queue takes about ten, and many
/// systems begin with 1,024.
pub(crate) fn raise_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    // With fewer, the wire for which there is none is refused, and says so.
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// How often interfaces are asked after, and wires that are missing are tried again.
const LOOK: Duration = Duration::from_secs(1);

/// A thread that keeps a firewall's wires as they are wanted: adds, removes, tells of interfaces that
/// go down, come back or vanish, and tries again where one is missing. Packets never wait for it.
pub(super) struct Keeper {
    wanted: Option<Sender<Vec<Topology>>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Keeps what `firewall` was started with. Call it in the network namespace of the interfaces.
    ///
    /// # Errors
    /// No more threads.
    pub(super) fn start(firewall: Arc<Firewall>, wanted: Vec<Topology>) -> std::io::Result<Self> {
        let (sender, changes) = channel();
        let mut state = State { running: wanted.clone(), wanted, complaints: BTreeMap::new() };
        let thread = std::thread::Builder::new()
            .name("wires".into())
            .spawn(move || while state.turn(&firewall, &changes) {})?;
        Ok(Self { wanted: Some(sender), thread: Some(thread) })
    }

    /// From now on these are wanted.
    pub(super) fn want(&self, wanted: Vec<Topology>) {
        // The thread ends only when this is dropped.
        let _ = self.wanted.as_ref().map(|changes| changes.send(wanted));
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            // It has told what went wrong.
            let _ = thread.join();
        }
    }
}

struct State {
    wanted: Vec<Topology>,
    /// As they were added; some of them may have vanished.
    running: Vec<Topology>,
    /// Why a wire is missing, as told last.
    complaints: BTreeMap<String, String>,
}

impl State {
    /// Waits a while or for a change, then looks around; `false` at the end.
    fn turn(&mut self, firewall: &Firewall, changes: &Receiver<Vec<Topology>>) -> bool {
        match changes.recv_timeout(LOOK) {
            Ok(wanted) => self.wanted = wanted,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        look(firewall);
        self.remove(firewall);
        for topology in self.wanted.clone() {
            // Each takes milliseconds, and there may be hundreds: the newest word counts.
            match changes.try_recv() {
                Ok(wanted) => {
                    self.wanted = wanted;
                    self.remove(firewall);
                    return true;
                }
                Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => self.add(firewall, topology),
            }
        }
        true
    }

    /// Removes what is not wanted any more, or not as it is; forgets what has vanished.
    fn remove(&mut self, firewall: &Firewall) {
        let there: BTreeSet<String> = firewall.wire_names().into_iter().collect();
        let Self { wanted, running, complaints } = self;
        running.retain(|topology| there.contains(topology.name()));
        let unwanted: Vec<_> = running.extract_if(.., |wire| !wanted.contains(wire)).collect();
        let names: Vec<_> = unwanted.iter().map(Topology::name).collect();
        for name in firewall.remove_wires(&names) {
            println!("wire {name}: removed");
        }
        complaints.retain(|name, _| wanted.iter().any(|topology| topology.name() == name));
    }

    fn add(&mut self, firewall: &Firewall, topology: Topology) {
        if self.running.iter().any(|running| running.name() == topology.name()) {
            return;
        }
        let name = topology.name().to_owned();
        match firewall.add_wire(topology.clone()) {
            Ok(()) => {
                self.running.push(topology);
                self.complaints.remove(&name);
                let ports = firewall.ports();
                let ports = ports.iter().filter(|port| port.wire == name).map(describe);
                println!("wire {name}: added: {}", ports.collect::<Vec<_>>().join(", "));
            }
            Err(error) => {
                let error = error.to_string();
                if self.complaints.get(&name) != Some(&error) {
                    eprintln!("{error}");
                    eprintln!("note: wire {name} is missing; it is tried again every second");
                    self.complaints.insert(name, error);
                }
            }
        }
    }
}

/// Tells of interfaces that are not what they were.
fn look(firewall: &Firewall) {
    match firewall.port_changes() {
        Ok(changes) => {
            for change in changes {
                println!("wire {}: {} is {}", change.wire, change.name, change.state.as_str());
            }
        }
        Err(error) => eprintln!("error: cannot ask after the interfaces: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wires_and_hairpins_are_read_and_contradictions_named() {
        let wires = ["a:b".to_owned(), "c:d".to_owned()];
        let hairpins = ["e".to_owned()];
        let switches = ["f, g,h".to_owned()];
        let wire = Some("x:y");
        let wanted = Wanted { wire, wires: &wires, hairpins: &hairpins, switches: &switches };
        let all = wanted.topologies().unwrap();
        let names: Vec<_> = all.iter().map(Topology::name).collect();
        assert_eq!(names, ["x:y", "a:b", "c:d", "e", "f,g,h"]);
        assert_eq!(all[1], Topology::wire("a", "b").small());
        for (wires, hairpins, switches, expected) in [
            (&["a"][..], &[][..], &[][..], "two interfaces"),
            (&["a:b:c"], &[], &[], "two interfaces"),
            (&["a:b", "b:c"], &[], &[], "interface b: both in a:b and in b:c"),
            (&["a:a"], &[], &[], "both in a:a and in a:a"),
            (&["a:b", "a:b"], &[], &[], "interface a"),
            (&["a:b"], &["b"], &[], "interface b: both in a:b and in b"),
            (&[], &["a:b"], &[], "one interface"),
            (&[], &[], &["a"], "expected interfaces"),
            (&[], &[], &["a,,b"], "expected interfaces"),
            (&[], &["b"], &["a,b"], "interface b"),
        ] {
            let own = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
            let (wires, hairpins, switches) = (own(wires), own(hairpins), own(switches));
            let (wires, hairpins, switches) = (&wires, &hairpins, &switches);
            let wanted = Wanted { wire: None, wires, hairpins, switches };
            let error = wanted.topologies().unwrap_err();
            assert!(error.message().contains(expected), "{}", error.message());
        }
    }
}
