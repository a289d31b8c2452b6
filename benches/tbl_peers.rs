//! The identity table beside DPDK's rte_fib, rte_lpm and rte_fib6, in one run on one core.
//!
//! `cargo bench --bench tbl_peers` needs Debian's libdpdk-dev, pkg-config and a C compiler, and says
//! so if they are missing. Rounds of all are interleaved; what is printed is the median of seven.
//! CPU, batch and table can be chosen: `cargo bench --bench tbl_peers -- --cpu 2 --batch 32 pods4`.

#[path = "support/dpdk.rs"]
mod dpdk;
#[path = "support/tables.rs"]
mod tables;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::hint::black_box;

use dpdk::{Library, seconds};
use portcullis::identity_table::{IdentityId, Reader, Writer};
use tables::{Table, Trace};

const ROUNDS: usize = 7;
const QUERIES: usize = 1 << 20;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let (mut cpu, mut batch) = ("0".to_owned(), 256);
    let mut wanted = Vec::new();
    let mut rest = args.into_iter();
    while let Some(arg) = rest.next() {
        match &*arg {
            "--cpu" => cpu = rest.next().unwrap_or(cpu),
            "--batch" => batch = rest.next().and_then(|batch| batch.parse().ok()).unwrap_or(batch),
            _ => wanted.push(arg),
        }
    }
    assert!(batch % 4 == 0 && QUERIES.is_multiple_of(batch), "--batch: a power of two from 4 on");
    let peers = match Peers::start(&cpu, batch) {
        Ok(peers) => peers,
        Err(why) => return println!("skipped: {why}"),
    };
    println!("| table | trace | method | Mlookups/s | ns | bytes | ours / it |");
    println!("|---|---|---|---|---|---|---|");
    for table in Table::all() {
        if wanted.is_empty() || wanted.iter().any(|name| name == table.name) {
            compare(&peers, &table);
        }
    }
}

fn compare(peers: &Peers, table: &Table) {
    let mut writer = Writer::new();
    writer.load(table.rows.iter().copied()).expect("far below the limit");
    let kinds: &[c_int] = if table.is_v6() { &[FIB6] } else { &[FIB4, LPM4] };
    let filled: Vec<(c_int, usize)> = kinds
        .iter()
        .map(|kind| (*kind, peers.fill(*kind, table)))
        .filter(|(_, bytes)| *bytes != 0)
        .collect();
    for skewed in [false, true] {
        let trace = table.trace(QUERIES, skewed);
        let mut runs = vec![Run::ours(&writer)];
        for (kind, bytes) in &filled {
            for method in 0..3 {
                if let Some(name) = peers.method(*kind, method) {
                    runs.push(Run::peer(name, *kind, method, *bytes));
                }
            }
        }
        let reader = writer.reader();
        let want = ours(&reader, &trace);
        for round in 0..=ROUNDS {
            for run in &mut runs {
                let seconds = run.once(peers, &reader, &trace, &want);
                if round > 0 {
                    run.seconds.push(seconds);
                }
            }
        }
        report(table, if skewed { "skewed" } else { "uniform" }, &mut runs);
    }
    for (kind, _) in filled {
        peers.free(kind);
    }
}

fn report(table: &Table, trace: &str, runs: &mut [Run]) {
    let ours = runs[0].median();
    for run in runs {
        let seconds = run.median();
        let (mlps, ns) = (QUERIES as f64 / seconds / 1e6, seconds * 1e9 / QUERIES as f64);
        println!(
            "| {} | {trace} | {} | {mlps:.0} | {ns:.2} | {} | {:.2} |",
            table.name,
            run.name,
            run.bytes,
            seconds / ours
        );
    }
}

/// One way of looking up, and what its rounds took.
struct Run {
    name: String,
    /// DPDK's table and method; none for ours.
    peer: Option<(c_int, c_int)>,
    bytes: usize,
    seconds: Vec<f64>,
}

impl Run {
    fn ours(writer: &Writer) -> Self {
        let name = "portcullis".to_owned();
        Self { name, peer: None, bytes: writer.memory_usage(), seconds: Vec::new() }
    }

    fn peer(name: String, kind: c_int, method: c_int, bytes: usize) -> Self {
        Self { name, peer: Some((kind, method)), bytes, seconds: Vec::new() }
    }

    /// One round: its seconds. A pass that is not timed goes first, over the same addresses and into
    /// the same answers, so that no method pays for what the others left in the caches. Every answer
    /// is compared.
    fn once(&self, peers: &Peers, reader: &Reader, trace: &Trace, want: &[IdentityId]) -> f64 {
        let Some((kind, method)) = self.peer else {
            let mut ids = vec![IdentityId::new(u32::MAX); QUERIES];
            lookup(reader, trace, &mut ids, peers.batch);
            let started = seconds();
            lookup(reader, trace, &mut ids, peers.batch);
            let seconds = seconds() - started;
            assert!(ids == want, "portcullis answers otherwise");
            return seconds;
        };
        peers.method(kind, method);
        let (seconds, answers) = peers.lookup(kind, method, trace);
        let same = answers.iter().zip(want).all(|(answer, id)| *answer == u64::from(id.get()));
        assert!(same, "{} answers otherwise", self.name);
        seconds
    }

    fn median(&mut self) -> f64 {
        self.seconds.sort_by(f64::total_cmp);
        self.seconds[ROUNDS / 2]
    }
}

fn ours(reader: &Reader, trace: &Trace) -> Vec<IdentityId> {
    let mut ids = vec![IdentityId::UNKNOWN; QUERIES];
    lookup(reader, trace, &mut ids, QUERIES);
    ids
}

/// A pin a batch, as the packet path does.
#[inline(never)]
fn lookup(reader: &Reader, trace: &Trace, ids: &mut [IdentityId], batch: usize) {
    match trace {
        Trace::V4(addresses) => {
            for (addresses, ids) in addresses.chunks(batch).zip(ids.chunks_mut(batch)) {
                reader.pin().lookup_v4_batch(addresses, ids);
            }
        }
        Trace::V6(addresses) => {
            for (addresses, ids) in addresses.chunks(batch).zip(ids.chunks_mut(batch)) {
                reader.pin().lookup_v6_batch(addresses, ids);
            }
        }
    }
    black_box(ids);
}

const FIB4: c_int = 0;
const LPM4: c_int = 1;
const FIB6: c_int = 2;

type Fill = unsafe extern "C" fn(c_int, u32, *const c_void, *const u8, *const u32, usize) -> usize;
type Lookup = unsafe extern "C" fn(c_int, c_int, *const c_void, *mut c_void, usize, usize);

/// The functions of `peers/tbl_dpdk.c`.
struct Peers {
    /// Addresses a call, theirs and ours.
    batch: usize,
    fill: Fill,
    free: unsafe extern "C" fn(c_int),
    method: unsafe extern "C" fn(c_int, c_int) -> *const c_char,
    lookup: Lookup,
}

impl Peers {
    /// Compiles, loads and starts DPDK; or says what is missing.
    fn start(cpu: &str, batch: usize) -> Result<Self, String> {
        let library = Library::start("tbl_dpdk", cpu, "6000")?;
        Ok(Self {
            batch,
            // SAFETY: tbl_dpdk.c declares it so.
            fill: unsafe { library.function(c"tbl_fill") },
            // SAFETY: as above.
            free: unsafe { library.function(c"tbl_free") },
            // SAFETY: as above.
            method: unsafe { library.function(c"tbl_method") },
            // SAFETY: as above.
            lookup: unsafe { library.function(c"tbl_lookup") },
        })
    }

    fn fill(&self, kind: c_int, table: &Table) -> usize {
        let columns = table.columns();
        // SAFETY: three columns of one length, in the layout that tbl_fill describes.
        unsafe {
            (self.fill)(
                kind,
                table.groups,
                columns.addresses.as_ptr().cast(),
                columns.lens.as_ptr(),
                columns.values.as_ptr(),
                columns.lens.len(),
            )
        }
    }

    fn free(&self, kind: c_int) {
        // SAFETY: only called for a table that was filled.
        unsafe { (self.free)(kind) };
    }

    fn method(&self, kind: c_int, method: c_int) -> Option<String> {
        // SAFETY: only called for a table that was filled.
        let name = unsafe { (self.method)(kind, method) };
        // SAFETY: a constant string of tbl_dpdk.c.
        (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
    }

    fn lookup(&self, kind: c_int, method: c_int, trace: &Trace) -> (f64, Vec<u64>) {
        let bytes = trace.bytes();
        let mut answers = vec![u64::MAX; QUERIES];
        let mut pass = || {
            let started = seconds();
            // SAFETY: QUERIES addresses in the layout that tbl_fill describes; 8 bytes for each
            // answer.
            unsafe {
                (self.lookup)(
                    kind,
                    method,
                    bytes.as_ptr().cast(),
                    answers.as_mut_ptr().cast(),
                    QUERIES,
                    self.batch,
                );
            }
            seconds() - started
        };
        pass();
        let seconds = pass();
        if kind == LPM4 {
            // 4 bytes an answer, of which the upper one holds flags.
            let pairs = answers[..QUERIES / 2].iter();
            let narrow = pairs.flat_map(|pair| [*pair & 0xff_ffff, *pair >> 32 & 0xff_ffff]);
            answers = narrow.collect();
        }
        (seconds, answers)
    }
}
