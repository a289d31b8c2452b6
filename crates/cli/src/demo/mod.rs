//! `portcullis demo`: four hosts, two policies, real connections.

mod attempts;
mod changes;
mod network;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use portcullis::policy::{self, Source};
use portcullis::{Config, Firewall, FlowEvent, FlowKind};

use crate::lab::NotPossible;
use crate::output::{self, Outcome, Refused};
use attempts::{Attempt, Party, Seen, pair};
use network::{Network, WIRE};

/// The demo's documents, as a user would write them.
const CLUSTER: &str = include_str!("cluster.yaml");
const POLICIES: &str = include_str!("policies.yaml");

/// Flags of `portcullis demo`.
#[derive(clap::Args)]
#[command(
    after_help = "Needs root (it builds network namespaces of its own, and touches nothing else).

Examples:
  sudo portcullis demo
  portcullis demo --documents        # only print the cluster and the policies

Exit code: 0 if every connection did what the policies say, 1 if one did not, 2 if it cannot run."
)]
pub(crate) struct Args {
    /// Print the cluster and the policies, and do nothing else
    #[arg(long)]
    documents: bool,
}

/// Builds the network, shows the policies at work, compares with what they say.
pub(crate) fn run(args: Args) -> Result<Outcome, Refused> {
    if args.documents {
        println!("# cluster.yaml\n{CLUSTER}\n# policies.yaml\n{POLICIES}");
        return Ok(Outcome::Done);
    }
    let cluster = policy::parse_cluster(&[Source::new("cluster.yaml", CLUSTER)])?.value;
    let policies = policy::parse_policies(&[Source::new("policies.yaml", POLICIES)])?.value;

    println!("Building four hosts in network namespaces, and a wire in front of the backend:");
    println!(
        "  frontend, intruder, ingress-controller ── {} [portcullis] {} ── backend",
        WIRE.0, WIRE.1
    );
    let network = Network::build()?;
    let parties = Parties::settle(&network)?;
    let services = parties.serve()?;

    let firewall = network.firewall.run(|| {
        Firewall::start(Config::wire(WIRE.0, WIRE.1), cluster.clone(), policies.clone())
    })??;
    for port in firewall.ports() {
        println!("  {}: AF_XDP {} mode, {} queues", port.name, port.mode, port.queues);
    }
    println!();
    println!("Two policies (see `portcullis demo --documents`):");
    println!("  1. from app=frontend to app=backend on 5432");
    println!("  2. deny all ingress to production except from app=ingress-controller");
    println!();

    let mut log = Log::default();
    let mut wrong = matrix(&parties.attempts(), &firewall, &mut log)?;
    wrong += changes::label(&parties, &firewall, &cluster, &policies)?;
    wrong += changes::address(&parties, &firewall, &cluster, &policies, &mut log)?;
    summary(&firewall);
    drop(services);
    firewall.shutdown();

    if wrong == 0 {
        println!("{}", output::green("Every connection did what the policies say."));
        Ok(Outcome::Done)
    } else {
        println!(
            "{}",
            output::red(&format!("{wrong} connections did NOT do what the policies say."))
        );
        Ok(Outcome::Findings)
    }
}

/// The four hosts with their addresses.
struct Parties<'a> {
    frontend: Party<'a>,
    intruder: Party<'a>,
    ingress: Party<'a>,
    backend: Party<'a>,
}

impl<'a> Parties<'a> {
    /// Gives every host its addresses of `cluster.yaml`.
    fn settle(network: &'a Network) -> Result<Self, NotPossible> {
        let party = |name, host, last: u16| Party::new(name, host, last);
        let parties = Self {
            frontend: party("frontend", &network.frontend, 0x10),
            intruder: party("intruder", &network.intruder, 0x66),
            ingress: party("ingress-controller", &network.ingress, 0x30),
            backend: party("backend", &network.backend, 0x20),
        };
        for party in [parties.frontend, parties.intruder, parties.ingress, parties.backend] {
            party.host.add_address(party.v4)?;
            party.host.add_address(party.v6)?;
        }
        Ok(parties)
    }

    /// Starts the listeners: the backend's two, and one on every other host.
    fn serve(&self) -> Result<Vec<crate::lab::Echo>, NotPossible> {
        let listeners = [
            (self.backend, 5432),
            (self.backend, 8080),
            (self.frontend, 8080),
            (self.intruder, 8080),
        ];
        listeners.iter().map(|(party, port)| party.host.echo(*port)).collect()
    }

    /// Who tries what. The last column is what the two policies say, worked out by hand:
    /// an intruder that wears the frontend's label in another namespace stays outside, and the
    /// frontend is itself in production, so policy 2 guards it.
    fn attempts(&self) -> Vec<Attempt<'a>> {
        let Self { frontend, intruder, ingress, backend } = *self;
        [
            pair(frontend, backend, 5432, true),
            pair(frontend, backend, 8080, false),
            pair(intruder, backend, 5432, false),
            pair(intruder, backend, 8080, false),
            pair(ingress, backend, 5432, true),
            pair(ingress, backend, 8080, true),
            pair(backend, frontend, 8080, false),
            pair(backend, intruder, 8080, true),
        ]
        .concat()
    }
}

/// Runs all attempts, prints the table, answers how many went wrong.
fn matrix(attempts: &[Attempt<'_>], firewall: &Firewall, log: &mut Log) -> Result<usize, Refused> {
    let seen: Vec<Result<Seen, NotPossible>> = std::thread::scope(|scope| {
        let running: Vec<_> = attempts.iter().map(|a| scope.spawn(|| a.run())).collect();
        running.into_iter().map(|r| r.join().expect("attempts do not panic")).collect()
    });
    log.read(firewall);
    println!(
        "  {:<19} {:<19} {:<16} {:<7} {:<7} decided by",
        "from", "to", "address:port", "policy", "seen"
    );
    let mut wrong = 0;
    for (attempt, seen) in attempts.iter().zip(seen) {
        wrong += usize::from(!show(attempt, seen?, log));
    }
    println!();
    Ok(wrong)
}

/// Prints one row; answers whether all agree: the policies, the connection, the firewall's verdict.
fn show(attempt: &Attempt<'_>, seen: Seen, log: &Log) -> bool {
    let verdict = log.verdict(attempt);
    let agrees = seen.reached == attempt.allowed
        && verdict.is_some_and(|(allowed, _)| allowed == attempt.allowed);
    let word = |allowed| if allowed { "allow" } else { "deny" };
    let outcome = format!("{:<7}", if seen.reached { "reached" } else { "nothing" });
    println!(
        "  {:<19} {:<19} {:<16} {:<7} {} {}{}",
        attempt.from.name,
        attempt.to.name,
        SocketAddr::new(attempt.address, attempt.port).to_string(),
        word(attempt.allowed),
        if seen.reached { output::green(&outcome) } else { output::yellow(&outcome) },
        verdict.map_or("(no verdict was recorded)", |(_, policy)| policy),
        if agrees { String::new() } else { output::red("  <- WRONG") },
    );
    agrees
}

/// What the firewall recorded: the last verdict for each pair of hosts and port.
#[derive(Default)]
struct Log(HashMap<(std::net::IpAddr, SocketAddr), (bool, String)>);

impl Log {
    /// Takes in what was recorded since. A little patience: records travel through a ring.
    fn read(&mut self, firewall: &Firewall) {
        std::thread::sleep(Duration::from_millis(20));
        firewall.events(|event: FlowEvent| {
            if let FlowKind::Ended { .. } = event.kind {
                return;
            }
            let key = (event.source.ip(), event.destination);
            self.0.insert(key, (event.allowed, event.policy));
        });
    }

    fn verdict(&self, attempt: &Attempt<'_>) -> Option<(bool, &str)> {
        let source = if attempt.address.is_ipv4() { attempt.from.v4 } else { attempt.from.v6 };
        let key = (source, SocketAddr::new(attempt.address, attempt.port));
        self.0.get(&key).map(|(allowed, policy)| (*allowed, policy.as_str()))
    }
}

fn summary(firewall: &Firewall) {
    let totals = firewall.totals();
    println!(
        "Packets: {} in, {} forwarded, {} dropped; {} checksums completed",
        totals.received, totals.forwarded, totals.dropped, totals.checksums_completed
    );
    for (reason, count) in &totals.drops {
        println!("  dropped {count:>6}  {}: {}", reason.as_str(), reason.description());
    }
    println!();
}
