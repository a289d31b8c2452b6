//! Readers on all cores while the writer changes the table as fast as it can.
//!
//! Every answer must have been right at some moment between the pin and the answer. To tell, the
//! writer notes for each address what may be seen: before a change the new answer too, and after it
//! only the new one.
//! `cargo test --release -p portcullis-identity-table --test churn -- --nocapture` shows the rates.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis_identity_table::reference::ReferenceTable;
use portcullis_identity_table::{IdentityId, Prefix, Reader, Writer};

/// Addresses watched. Each has a nest of prefixes of its own.
const WATCHED: usize = 512;
/// Answers an address may have: one bit each.
const ANSWERS: u32 = 40;

/// Which answers of one address may be seen now; written by the writer alone.
struct Watched {
    address: IpAddr,
    /// Numbers of the prefixes around the address, the longest first.
    covering: Vec<usize>,
    /// A bit for each answer that may be seen.
    allowed: AtomicU64,
    /// Counts changes of `allowed`, two for each change of the table.
    version: AtomicU64,
}

impl Watched {
    /// An address, and the lengths of the prefixes around it that come and go.
    fn pick(i: usize) -> (IpAddr, &'static [u8]) {
        match i % 4 {
            // In a crowded /24, in a sparse net, and the same for IPv6.
            0 => (Ipv4Addr::from(0x0a00_0000 + i as u32).into(), &[32, 31, 28]),
            1 => {
                let address = Ipv4Addr::from(0x1400_0000 + ((i as u32) << 16) + 77);
                (address.into(), &[32, 27, 24, 22, 18])
            }
            2 => (Ipv6Addr::from((0xfd10 << 112) + i as u128).into(), &[128, 126, 122]),
            _ => {
                let bits = (0x2001 << 112) + ((i as u128) << 96) + (7 << 40) + 9;
                (Ipv6Addr::from(bits).into(), &[128, 125, 90, 64, 50, 33])
            }
        }
    }

    /// Whether `answer` may be seen now, or might have since `version` was read: what is allowed is
    /// widened before a change and narrowed after it, so only a whole change in between can hide an
    /// answer.
    fn allows(&self, version: u64, answer: IdentityId) -> bool {
        let allowed = self.allowed.load(Ordering::SeqCst);
        allowed & 1 << answer.get() != 0 || self.version.load(Ordering::SeqCst) > version + 1
    }
}

/// All prefixes that come and go, with what stands at each now.
struct Prefixes {
    prefixes: Vec<Prefix>,
    ids: Vec<Option<IdentityId>>,
    /// The watched addresses inside each.
    inside: Vec<Vec<usize>>,
}

impl Prefixes {
    fn new() -> (Self, Vec<Watched>) {
        let picks: Vec<_> = (0..WATCHED).map(Watched::pick).collect();
        let nests = picks.iter().flat_map(|(address, lens)| {
            lens.iter().map(|len| Prefix::truncated(*address, *len).unwrap())
        });
        let mut prefixes: Vec<Prefix> = nests.collect();
        prefixes.sort_by_key(|prefix| (std::cmp::Reverse(prefix.len()), *prefix));
        prefixes.dedup();
        let watch = |(address, _): &(IpAddr, _)| Watched {
            address: *address,
            covering: (0..prefixes.len()).filter(|p| prefixes[*p].contains(*address)).collect(),
            allowed: AtomicU64::new(1),
            version: AtomicU64::new(0),
        };
        let watched: Vec<Watched> = picks.iter().map(watch).collect();
        let inside =
            |p: usize| (0..WATCHED).filter(|w| watched[*w].covering.contains(&p)).collect();
        let inside = (0..prefixes.len()).map(inside).collect();
        (Self { ids: vec![None; prefixes.len()], prefixes, inside }, watched)
    }

    fn answer(&self, watched: &Watched) -> IdentityId {
        watched.covering.iter().find_map(|p| self.ids[*p]).unwrap_or(IdentityId::UNKNOWN)
    }

    /// One change, with the notes that readers judge by.
    fn change(&mut self, writer: &mut Writer, watched: &[Watched], seed: &mut u64) {
        let random = next(seed);
        let p = random as usize % self.prefixes.len();
        let id = IdentityId::new((random >> 30) as u32 % ANSWERS);
        self.ids[p] = (random >> 50 & 3 != 0).then_some(id);
        for touched in &self.inside[p] {
            let after = 1 << self.answer(&watched[*touched]).get();
            watched[*touched].allowed.fetch_or(after, Ordering::SeqCst);
            watched[*touched].version.fetch_add(1, Ordering::SeqCst);
        }
        if let Some(id) = self.ids[p] {
            writer.insert(self.prefixes[p], id).unwrap();
        } else {
            writer.remove(&self.prefixes[p]).unwrap();
        }
        for touched in &self.inside[p] {
            let after = 1 << self.answer(&watched[*touched]).get();
            watched[*touched].allowed.store(after, Ordering::SeqCst);
            watched[*touched].version.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Between two changes, every answer equals the slow twin's.
    fn settle(&self, writer: &Writer, watched: &[Watched]) {
        let mut twin = ReferenceTable::default();
        for (prefix, id) in self.prefixes.iter().zip(&self.ids) {
            if let Some(id) = id {
                twin.insert(*prefix, *id);
            }
        }
        let reader = writer.reader();
        for watched in watched {
            assert_eq!(reader.pin().lookup(watched.address), twin.lookup(watched.address));
        }
    }
}

/// xorshift64.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn read(reader: &Reader, watched: &[Watched], stop: &AtomicBool, mut seed: u64) -> (u64, u64) {
    let (mut lookups, mut judged) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let picks: [usize; 48] = std::array::from_fn(|_| next(&mut seed) as usize % WATCHED);
        let versions = picks.map(|i| watched[i].version.load(Ordering::SeqCst));
        let allowed = picks.map(|i| watched[i].allowed.load(Ordering::SeqCst));
        let guard = reader.pin();
        let mut answers = [IdentityId::UNKNOWN; 48];
        let (mut v4, mut at4, mut v6, mut at6) = (vec![], vec![], vec![], vec![]);
        for (n, i) in picks.iter().enumerate() {
            match watched[*i].address {
                IpAddr::V4(address) => (v4.push(u32::from(address)), at4.push(n)),
                IpAddr::V6(address) => (v6.push(u128::from(address)), at6.push(n)),
            };
        }
        let mut out = [IdentityId::UNKNOWN; 48];
        guard.lookup_v4_batch(&v4, &mut out);
        at4.iter().zip(out).for_each(|(n, id)| answers[*n] = id);
        guard.lookup_v6_batch(&v6, &mut out);
        at6.iter().zip(out).for_each(|(n, id)| answers[*n] = id);
        drop(guard);
        for n in 0..picks.len() {
            let watched = &watched[picks[n]];
            let before = allowed[n] & 1 << answers[n].get() != 0;
            assert!(
                before || watched.allows(versions[n], answers[n]),
                "{} was never {:?}",
                watched.address,
                answers[n]
            );
            judged += u64::from(watched.version.load(Ordering::SeqCst) <= versions[n] + 1);
        }
        lookups += 48;
    }
    (lookups, judged)
}

#[test]
fn no_reader_ever_sees_what_was_not_true() {
    let seconds = std::env::var("CHURN_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3);
    let (mut prefixes, watched) = Prefixes::new();
    let mut writer = Writer::new();
    let stop = AtomicBool::new(false);
    let readers = std::thread::available_parallelism().map_or(2, usize::from);
    let (changes, lookups, judged, elapsed) = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=readers)
            .map(|n| {
                let reader = writer.reader();
                let (watched, stop) = (&watched, &stop);
                scope.spawn(move || read(&reader, watched, stop, 0x9e37_79b9 * n as u64))
            })
            .collect();
        // A reader that fails must not leave the others and this test running.
        let guard = StopOnDrop(&stop);
        let started = Instant::now();
        let (mut changes, mut seed) = (0_u64, 7);
        while started.elapsed() < Duration::from_secs(seconds)
            && !threads.iter().any(std::thread::ScopedJoinHandle::is_finished)
        {
            for _ in 0..1000 {
                prefixes.change(&mut writer, &watched, &mut seed);
            }
            changes += 1000;
            if changes % 100_000 == 0 {
                prefixes.settle(&writer, &watched);
            }
        }
        let elapsed = started.elapsed();
        drop(guard);
        prefixes.settle(&writer, &watched);
        let sums = threads.into_iter().map(|thread| thread.join().unwrap());
        let (lookups, judged) = sums.fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        (changes, lookups, judged, elapsed)
    });
    let rate = changes as f64 / elapsed.as_secs_f64();
    println!(
        "{rate:.0} changes/s; {lookups} lookups by {readers} readers, {judged} of them judged"
    );
    assert!(judged > 0 && changes > 0);
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
