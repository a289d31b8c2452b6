//! The classifier beside DPDK's rte_acl, in one run on one core.
//!
//! `cargo bench --bench acl_peers` needs Debian's libdpdk-dev, pkg-config and a C compiler, and says
//! so if they are missing. Rounds of all methods are interleaved; what is printed is the median of
//! seven and the ratio to rte_acl's best method. Choose with
//! `cargo bench --bench acl_peers -- --cpu 2 1k 10k 100k`; rule sets as in support/rulesets.rs.

#[path = "support/dpdk.rs"]
mod dpdk;
#[path = "support/rulesets.rs"]
mod rulesets;

use std::ffi::{CStr, c_char, c_int};

use dpdk::{Library, seconds};
use portcullis::classifier::{
    AddressMatch, Header, ProtocolMatch, Rule, RuleId, RuleSet, TupleV4, tree, workload,
};
use rulesets::Named;

const ROUNDS: usize = 7;
const HEADERS: usize = 100_000;
/// rte_acl is tried with both.
const BATCHES: [usize; 2] = [32, 256];
const OUR_BATCH: usize = 64;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let mut cpu = "0".to_owned();
    let mut sizes = Vec::new();
    let mut rest = args.into_iter();
    while let Some(arg) = rest.next() {
        match &*arg {
            "--cpu" => cpu = rest.next().unwrap_or(cpu),
            _ => sizes.push(arg),
        }
    }
    if sizes.is_empty() {
        sizes = ["1k", "10k", "100k"].map(str::to_owned).to_vec();
    }
    let peer = match Peer::start(&cpu) {
        Ok(peer) => peer,
        Err(why) => return println!("skipped: {why}"),
    };
    println!("Million lookups a second, medians of {ROUNDS} interleaved rounds, one core.\n");
    println!(
        "| rules | trace | ours | rte_acl's best | ratio | ours, KiB | rte_acl, KiB | ours, build s | rte_acl, build s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for size in sizes {
        let ratios: Vec<f64> =
            rulesets::of_size(&size).iter().flat_map(|set| compare(&peer, set)).collect();
        let mean = ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64;
        println!("| {size}, geometric mean | | | | {:.2} | | | | |", mean.exp());
    }
}

/// The ratios on both traces.
fn compare(peer: &Peer, set: &Named) -> Vec<f64> {
    let started = seconds();
    let tree = tree::Builder::new().build(&set.rules).expect("within the limits");
    let build = seconds() - started;
    let Some((peer_build, peer_bytes)) = peer.build(&set.rules) else {
        println!("| {} | | | rte_acl does not build | | | | | |", set.name);
        return Vec::new();
    };
    let mut ratios = Vec::new();
    for trace in ["uniform", "zipf"] {
        let headers = match trace {
            "uniform" => workload::uniform(&set.rules, HEADERS, 42),
            _ => workload::zipf(&set.rules, HEADERS, 42),
        };
        let tuples: Vec<TupleV4> = headers.iter().filter_map(TupleV4::of).collect();
        peer.headers(&headers);
        let mut found = vec![None; tuples.len()];
        let mut ours = Vec::new();
        let mut theirs: Vec<(usize, usize, Vec<f64>)> = peer
            .methods()
            .flat_map(|method| BATCHES.map(|batch| (method, batch, Vec::new())))
            .collect();
        // Every round is run twice and timed the second time: the one before has filled the caches
        // with something else.
        for round in 0..=ROUNDS {
            ours_once(&tree, &tuples, &mut found);
            let seconds = ours_once(&tree, &tuples, &mut found);
            if round > 0 {
                ours.push(seconds);
            }
            for (method, batch, times) in &mut theirs {
                peer.round(*method, *batch, &found);
                let Some(seconds) = peer.round(*method, *batch, &found) else { continue };
                if round > 0 {
                    times.push(seconds);
                }
            }
        }
        let mlps = |times: &mut Vec<f64>| {
            times.sort_by(f64::total_cmp);
            HEADERS as f64 / times[times.len() / 2] / 1e6
        };
        let ours = mlps(&mut ours);
        let (best, name) = theirs
            .iter_mut()
            .filter(|(.., times)| !times.is_empty())
            .map(|(method, batch, times)| {
                (mlps(times), format!("{} in {batch}s", peer.name(*method)))
            })
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .expect("the scalar method runs everywhere");
        println!(
            "| {} | {trace} | {ours:.1} | {best:.1} ({name}) | {:.2} | {} | {} | {build:.3} | {peer_build:.3} |",
            set.name,
            ours / best,
            tree.memory_usage() / 1024,
            peer_bytes / 1024,
        );
        ratios.push(ours / best);
    }
    ratios
}

#[inline(never)]
fn ours_once(tree: &tree::Tree, tuples: &[TupleV4], found: &mut [Option<RuleId>]) -> f64 {
    let mut scratch = tree::Scratch::default();
    let started = seconds();
    for (tuples, found) in tuples.chunks(OUR_BATCH).zip(found.chunks_mut(OUR_BATCH)) {
        tree.lookup_tuples(tuples, &mut scratch, found);
    }
    seconds() - started
}

/// `struct rule` of acl_dpdk.c.
#[repr(C)]
struct PeerRule {
    source: u32,
    destination: u32,
    source_port: [u16; 2],
    destination_port: [u16; 2],
    protocol: u16,
    source_len: u8,
    destination_len: u8,
}

impl PeerRule {
    fn new(rule: &Rule) -> Self {
        let side = |side: AddressMatch| match side {
            AddressMatch::V4(prefix) => (prefix.address().to_bits(), prefix.len()),
            _ => (0, 0),
        };
        let ((source, source_len), (destination, destination_len)) =
            (side(rule.source), side(rule.destination));
        Self {
            source,
            destination,
            source_port: [rule.source_ports.first(), rule.source_ports.last()],
            destination_port: [rule.destination_ports.first(), rule.destination_ports.last()],
            protocol: match rule.protocol {
                ProtocolMatch::Exact(protocol) => protocol.into(),
                _ => 256,
            },
            source_len,
            destination_len,
        }
    }
}

/// `struct tuple` of acl_dpdk.c.
#[repr(C)]
struct PeerTuple {
    source: u32,
    destination: u32,
    source_port: u16,
    destination_port: u16,
    protocol: u32,
}

impl PeerTuple {
    fn new(header: &Header) -> Self {
        let address = |address| match address {
            std::net::IpAddr::V4(address) => address.to_bits(),
            std::net::IpAddr::V6(_) => 0,
        };
        Self {
            source: address(header.addresses.source()),
            destination: address(header.addresses.destination()),
            source_port: header.source_port,
            destination_port: header.destination_port,
            protocol: header.protocol.into(),
        }
    }
}

type Build = unsafe extern "C" fn(*const PeerRule, usize, *mut f64, *mut usize) -> c_int;
type Headers = unsafe extern "C" fn(*const PeerTuple, usize);
type Round = unsafe extern "C" fn(c_int, usize, usize, *mut u32) -> f64;
type Method = unsafe extern "C" fn(c_int) -> *const c_char;

/// The functions of `peers/acl_dpdk.c`.
struct Peer {
    build: Build,
    headers: Headers,
    round: Round,
    method: Method,
}

impl Peer {
    /// Compiles, loads and starts DPDK; or says what is missing.
    fn start(cpu: &str) -> Result<Self, String> {
        let library = Library::start("acl_dpdk", cpu, "6000")?;
        Ok(Self {
            // SAFETY: acl_dpdk.c declares it so.
            build: unsafe { library.function(c"acl_build") },
            // SAFETY: as above.
            headers: unsafe { library.function(c"acl_headers") },
            // SAFETY: as above.
            round: unsafe { library.function(c"acl_round") },
            // SAFETY: as above.
            method: unsafe { library.function(c"acl_method") },
        })
    }

    /// Seconds and bytes, or `None` when rte_acl refuses the rules.
    fn build(&self, rules: &RuleSet) -> Option<(f64, usize)> {
        let rules: Vec<PeerRule> = rules.rules().iter().map(PeerRule::new).collect();
        let (mut seconds, mut bytes) = (0.0, 0);
        // SAFETY: a list of `rules.len()` rules and two places to write to.
        let status =
            unsafe { (self.build)(rules.as_ptr(), rules.len(), &raw mut seconds, &raw mut bytes) };
        (status == 0).then_some((seconds, bytes))
    }

    fn headers(&self, headers: &[Header]) {
        let tuples: Vec<PeerTuple> = headers.iter().map(PeerTuple::new).collect();
        // SAFETY: a list of `tuples.len()` tuples, which the callee copies.
        unsafe { (self.headers)(tuples.as_ptr(), tuples.len()) }
    }

    /// The seconds of a round, whose answers must be `want`; `None` when the method is not for this
    /// machine.
    fn round(&self, method: usize, batch: usize, want: &[Option<RuleId>]) -> Option<f64> {
        let mut found = vec![u32::MAX; want.len()];
        let number = c_int::try_from(method).ok()?;
        // SAFETY: as many places to write to as headers were handed over.
        let seconds = unsafe { (self.round)(number, batch, want.len(), found.as_mut_ptr()) };
        if seconds < 0.0 {
            return None;
        }
        let same = found
            .iter()
            .zip(want)
            .all(|(found, want)| *found == want.map_or(0, |id| id.as_u32() + 1));
        assert!(same, "{} and the tree differ", self.name(method));
        Some(seconds)
    }

    fn methods(&self) -> impl Iterator<Item = usize> {
        (0..).take_while(|&method| !self.name_of(method).is_null())
    }

    fn name(&self, method: usize) -> String {
        // SAFETY: a C string that lives as long as the library.
        unsafe { CStr::from_ptr(self.name_of(method)) }.to_string_lossy().into_owned()
    }

    fn name_of(&self, method: usize) -> *const c_char {
        // SAFETY: any number is an argument; beyond the last method it answers null.
        unsafe { (self.method)(c_int::try_from(method).unwrap_or(c_int::MAX)) }
    }
}
