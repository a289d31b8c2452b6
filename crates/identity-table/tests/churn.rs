//! Readers on all cores while the writer changes the table as fast as it can, and while another
//! thread replaces a named set again and again.
//!
//! Every answer must have been right at some moment between the pin and the answer. To tell, the
//! writer notes for each address what may be seen: before a change the new answer too, and after it
//! only the new one. While a set is being replaced both its contents may be seen.
//! `cargo test --release -p portcullis-identity-table --test churn -- --nocapture` shows the rates.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis_identity_table::reference::ReferenceTable;
use portcullis_identity_table::{IdentityId, Prefix, Reader, Replacement, Writer};

/// Addresses watched. Each has a nest of prefixes of its own.
const WATCHED: usize = 512;
/// Answers an address may have from prefixes of its own: one bit each.
const ANSWERS: u32 = 40;
/// Contents of the set that can be told apart: a bit each, behind those.
const CONTENTS: u32 = 20;
/// Members of the set that no watched address is in.
const OTHERS: u32 = if cfg!(debug_assertions) { 500 } else { 20_000 };

/// Which answers of one address may be seen now; written by the writer alone.
struct Watched {
    address: IpAddr,
    /// Numbers of the prefixes around the address, the longest first.
    covering: Vec<usize>,
    /// The length of the longest member of the set around the address.
    member: Option<u8>,
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
    /// Members of the set, in every content.
    members: Vec<Prefix>,
    /// The content in force, and the one that may be.
    contents: [Option<u32>; 2],
}

/// What is changed under the writer's lock.
struct World {
    writer: Writer,
    prefixes: Prefixes,
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
        let mut members: Vec<Prefix> = picks.iter().enumerate().filter_map(member).collect();
        members.sort_unstable();
        members.dedup();
        let around = |address| members.iter().filter(move |member| member.contains(address));
        let watch = |(address, _): &(IpAddr, _)| Watched {
            address: *address,
            member: around(*address).map(Prefix::len).max(),
            covering: (0..prefixes.len()).filter(|p| prefixes[*p].contains(*address)).collect(),
            allowed: AtomicU64::new(1),
            version: AtomicU64::new(0),
        };
        let watched: Vec<Watched> = picks.iter().map(watch).collect();
        let inside =
            |p: usize| (0..WATCHED).filter(|w| watched[*w].covering.contains(&p)).collect();
        let inside = (0..prefixes.len()).map(inside).collect();
        let (ids, contents) = (vec![None; prefixes.len()], [None; 2]);
        (Self { ids, prefixes, inside, members, contents }, watched)
    }

    /// A bit for each answer that may be seen.
    fn answers(&self, watched: &Watched) -> u64 {
        let own = watched.covering.iter().find(|p| self.ids[**p].is_some());
        let bit = |content: Option<u32>| match (own, watched.member, content) {
            (Some(p), Some(member), Some(content)) if self.prefixes[*p].len() < member => {
                set_id(content)
            }
            (Some(p), ..) => self.ids[*p].unwrap_or_default(),
            (None, Some(_), Some(content)) => set_id(content),
            (None, ..) => IdentityId::UNKNOWN,
        };
        self.contents.iter().fold(0, |bits, content| bits | 1 << bit(*content).get())
    }

    /// Says which contents may be seen from now on, or, when `widen`, also.
    fn set_contents(&mut self, contents: [Option<u32>; 2], watched: &[Watched], widen: bool) {
        self.contents = contents;
        for watched in watched {
            let answers = self.answers(watched);
            if widen {
                watched.allowed.fetch_or(answers, Ordering::SeqCst);
            } else {
                watched.allowed.store(answers, Ordering::SeqCst);
            }
            watched.version.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// One change, with the notes that readers judge by.
    fn change(&mut self, writer: &mut Writer, watched: &[Watched], seed: &mut u64) {
        let random = next(seed);
        let p = random as usize % self.prefixes.len();
        let id = IdentityId::new((random >> 30) as u32 % ANSWERS);
        self.ids[p] = (random >> 50 & 3 != 0).then_some(id);
        for touched in &self.inside[p] {
            let after = self.answers(&watched[*touched]);
            watched[*touched].allowed.fetch_or(after, Ordering::SeqCst);
            watched[*touched].version.fetch_add(1, Ordering::SeqCst);
        }
        if let Some(id) = self.ids[p] {
            writer.insert(self.prefixes[p], id).unwrap();
        } else {
            writer.remove(&self.prefixes[p]).unwrap();
        }
        for touched in &self.inside[p] {
            let after = self.answers(&watched[*touched]);
            watched[*touched].allowed.store(after, Ordering::SeqCst);
            watched[*touched].version.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Between two changes, every answer equals the slow twin's: for one of the set's contents, if
    /// it is being replaced.
    fn settle(&self, writer: &Writer, watched: &[Watched]) {
        let twins = self.contents.map(|content| {
            let mut twin = ReferenceTable::default();
            for member in self.members.iter().filter(|_| content.is_some()) {
                twin.insert(*member, set_id(content.unwrap_or_default()));
            }
            for (prefix, id) in self.prefixes.iter().zip(&self.ids) {
                if let Some(id) = id {
                    twin.insert(*prefix, *id);
                }
            }
            twin
        });
        let reader = writer.reader();
        let guard = reader.pin();
        let agrees = |twin: &ReferenceTable| {
            watched.iter().all(|w| guard.lookup(w.address) == twin.lookup(w.address))
        };
        assert!(twins.iter().any(agrees), "neither content of the set explains the answers");
    }
}

/// The member of the set around a watched address, if it has one: the address alone, which its own
/// prefixes override, or a net that lies between them.
fn member((i, (address, _)): (usize, &(IpAddr, &[u8]))) -> Option<Prefix> {
    let host = Prefix::host(*address).len();
    let len = [host, host - 6, host - 12, host / 8 * 5];
    (i % 5 < 4).then(|| Prefix::truncated(*address, len[i % 5]).unwrap())
}

const fn set_id(content: u32) -> IdentityId {
    IdentityId::new(ANSWERS + content % CONTENTS)
}

/// Replaces the set until told to stop; returns how often.
fn replace(world: &Mutex<World>, watched: &[Watched], stop: &AtomicBool) -> u32 {
    let mut content = 0;
    while !stop.load(Ordering::Relaxed) {
        content += 1;
        let next = Some(content);
        let mut rows = {
            let mut world = world.lock().unwrap();
            let now = world.prefixes.contents[0];
            world.prefixes.set_contents([now, next], watched, true);
            world.prefixes.members.clone()
        };
        let other = |i: u32| Prefix::host(Ipv4Addr::from(0xc000_0000 | i << 9).into());
        rows.extend((0..OTHERS).map(other));
        let rows = rows.into_iter().map(|member| (member, set_id(content)));
        let replacement = Replacement::new("feed", rows).unwrap();
        replacement.run(|step| step(&mut world.lock().unwrap().writer)).unwrap();
        world.lock().unwrap().prefixes.set_contents([next, next], watched, false);
    }
    content
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
    for replacing in [false, true] {
        churn(Duration::from_secs(seconds), replacing);
    }
}

fn churn(time: Duration, replacing: bool) {
    let (prefixes, watched) = Prefixes::new();
    let world = Mutex::new(World { writer: Writer::new(), prefixes });
    let stop = AtomicBool::new(false);
    let readers = std::thread::available_parallelism().map_or(2, usize::from);
    let (world, watched, stop) = (&world, &watched[..], &stop);
    let (changes, lookups, judged, elapsed, replaced) = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=readers)
            .map(|n| {
                let reader = world.lock().unwrap().writer.reader();
                scope.spawn(move || read(&reader, watched, stop, 0x9e37_79b9 * n as u64))
            })
            .collect();
        // A reader that fails must not leave the others and this test running.
        let guard = StopOnDrop(stop);
        let replacer = replacing.then(|| scope.spawn(|| replace(world, watched, stop)));
        let started = Instant::now();
        let (mut changes, mut seed) = (0_u64, 7);
        while started.elapsed() < time
            && !threads.iter().any(std::thread::ScopedJoinHandle::is_finished)
        {
            for _ in 0..100 {
                let World { writer, prefixes } = &mut *world.lock().unwrap();
                prefixes.change(writer, watched, &mut seed);
            }
            changes += 100;
            if changes % 100_000 == 0 {
                let world = world.lock().unwrap();
                world.prefixes.settle(&world.writer, watched);
            }
        }
        let elapsed = started.elapsed();
        drop(guard);
        let replaced = replacer.map_or(0, |thread| thread.join().unwrap());
        let world = world.lock().unwrap();
        world.prefixes.settle(&world.writer, watched);
        drop(world);
        let sums = threads.into_iter().map(|thread| thread.join().unwrap());
        let (lookups, judged) = sums.fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        (changes, lookups, judged, elapsed, replaced)
    });
    let rate = changes as f64 / elapsed.as_secs_f64();
    println!(
        "{rate:.0} changes/s; set replaced {replaced} times; {lookups} lookups by {readers} \
         readers, {judged} of them judged"
    );
    assert!(judged > 0 && changes > 0 && (replaced > 0) == replacing);
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
