//! What happens when a workload changes while connections run.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portcullis::Firewall;
use portcullis::identity_table::endpoint::ClusterState;
use portcullis::policy::model::PolicySet;

use super::attempts::{Attempt, echoes};
use super::{Log, Parties, show};
use crate::lab::NotPossible;
use crate::output::{self, Refused};

/// How long a connection may be silent before it counts as cut.
const SILENCE: Duration = Duration::from_millis(250);
/// How long a change may take to be seen.
const LIMIT: Duration = Duration::from_secs(5);

/// Takes the frontend's label away under a running connection, and gives it back.
pub(super) fn label(
    parties: &Parties<'_>,
    firewall: &Firewall,
    cluster: &ClusterState,
    policies: &PolicySet,
) -> Result<usize, Refused> {
    println!("The frontend loses its label app=frontend while a connection runs:");
    let server = SocketAddr::new(parties.backend.v4, 5432);
    let frontend = parties.frontend.host;
    let stream = frontend.connect(server, SILENCE)?.map_err(|e| format!("error: connect: {e}"))?;
    let mut relabelled = cluster.clone();
    for endpoint in &mut relabelled.endpoints {
        if &*endpoint.name == "frontend" {
            endpoint.labels = endpoint.labels.with("app", "retired");
        }
    }

    let pulse = Pulse::default();
    let (changed, last) = std::thread::scope(|scope| {
        scope.spawn(|| pulse.beat(stream));
        // Let the connection run before anything changes under it.
        std::thread::sleep(Duration::from_millis(100));
        let changed = Instant::now();
        let applied = firewall.apply(relabelled, policies.clone());
        let took = changed.elapsed();
        let last = pulse.end();
        pulse.stop.store(true, Ordering::Relaxed);
        applied.map(|_| ((changed, took), last))
    })?;
    let mut wrong = 0;
    match last {
        Some(last) => println!(
            "  applied in {:.2} ms; the last byte of the running connection passed {:.2} ms after the change began",
            changed.1.as_secs_f64() * 1e3,
            last.saturating_duration_since(changed.0).as_secs_f64() * 1e3,
        ),
        None => {
            wrong += 1;
            println!("{}", output::red("  WRONG: the running connection was not cut"));
        }
    }
    if frontend.connect(server, SILENCE)?.is_ok() {
        wrong += 1;
        println!("{}", output::red("  WRONG: a new connection was made without the label"));
    }

    let began = Instant::now();
    firewall.apply(cluster.clone(), policies.clone())?;
    match first_connection(parties, server, began)? {
        Some(after) => println!(
            "  label back: a new connection carried data {:.2} ms after the change began\n",
            after.as_secs_f64() * 1e3
        ),
        None => {
            wrong += 1;
            println!("{}", output::red("  WRONG: no connection although the label is back\n"));
        }
    }
    Ok(wrong)
}

/// Gives the frontend's pod a new address, and its old address to the intruder.
pub(super) fn address(
    parties: &Parties<'_>,
    firewall: &Firewall,
    cluster: &ClusterState,
    policies: &PolicySet,
    log: &mut Log,
) -> Result<usize, Refused> {
    println!("The frontend's pod is replaced: new address; the intruder takes the old one:");
    let mut frontend = parties.frontend;
    let mut intruder = parties.intruder;
    let old = [frontend.v4, frontend.v6];
    let new: [IpAddr; 2] = ["10.77.0.11".parse()?, "fd77::11".parse()?];
    for address in old {
        frontend.host.remove_address(address)?;
    }
    for address in [intruder.v4, intruder.v6] {
        intruder.host.remove_address(address)?;
    }
    for (new, old) in new.into_iter().zip(old) {
        frontend.host.add_address(new)?;
        intruder.host.add_address(old)?;
    }
    (frontend.v4, frontend.v6) = (new[0], new[1]);
    (intruder.v4, intruder.v6) = (old[0], old[1]);

    let mut moved = cluster.clone();
    for endpoint in &mut moved.endpoints {
        match &*endpoint.name {
            "frontend" => endpoint.addresses = new.to_vec(),
            "intruder" => endpoint.addresses = old.to_vec(),
            _ => {}
        }
    }
    firewall.apply(moved, policies.clone())?;

    let mut wrong = 0;
    for (party, allowed) in [(frontend, true), (intruder, false)] {
        for address in [parties.backend.v4, parties.backend.v6] {
            let attempt =
                Attempt { from: party, to: parties.backend, port: 5432, address, allowed };
            let seen = attempt.run()?;
            log.read(firewall);
            print!("  {:<18}", if address.is_ipv4() { party.v4 } else { party.v6 });
            wrong += usize::from(!show(&attempt, seen, log));
        }
    }
    println!();
    Ok(wrong)
}

/// Tries until a connection carries data; how long after `began` that was.
fn first_connection(
    parties: &Parties<'_>,
    server: SocketAddr,
    began: Instant,
) -> Result<Option<Duration>, NotPossible> {
    while began.elapsed() < LIMIT {
        // A short patience: each attempt is one SYN, so the answer is not blurred by its repetition.
        let attempt = parties.frontend.host.connect(server, Duration::from_millis(5))?;
        if attempt.is_ok_and(|mut stream| echoes(&mut stream)) {
            return Ok(Some(began.elapsed()));
        }
    }
    Ok(None)
}

/// A connection that sends and receives one byte at a time, and remembers when it last did.
#[derive(Default)]
struct Pulse {
    last: Mutex<Option<Instant>>,
    stop: AtomicBool,
}

impl Pulse {
    fn beat(&self, mut stream: TcpStream) {
        let mut byte = [1];
        if stream.set_nodelay(true).is_err() || stream.set_read_timeout(Some(SILENCE)).is_err() {
            return;
        }
        while !self.stop.load(Ordering::Relaxed)
            && stream.write_all(&byte).is_ok()
            && stream.read_exact(&mut byte).is_ok()
        {
            *self.last.lock().unwrap_or_else(|e| e.into_inner()) = Some(Instant::now());
        }
    }

    /// Waits for silence; when the last byte came. `None` if the connection goes on.
    fn end(&self) -> Option<Instant> {
        let began = Instant::now();
        while began.elapsed() < LIMIT {
            let last = *self.last.lock().unwrap_or_else(|e| e.into_inner());
            if let Some(last) = last.filter(|last| last.elapsed() > SILENCE) {
                return Some(last);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }
}
