//! Bytes on their way from one worker to the reader: a head of fixed length and a packet, again and
//! again.

use rtrb::{Consumer, Producer, RingBuffer};

use super::{Askers, InterfaceId, SNAPLEN};
use crate::clock::Time;
use crate::pipeline::{Judgement, State};
use crate::reason::Reason;
use crate::verdict::{RuleId, Verdict};
use portcullis_identity_table::IdentityId;

/// A copied packet.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'a> {
    /// When its batch was received.
    pub time: Time,
    /// Where.
    pub interface: InterfaceId,
    /// Who asked for it.
    pub askers: Askers,
    /// Length of the whole frame in bytes.
    pub wire_len: usize,
    /// What was decided.
    pub judgement: Judgement,
    /// Its first bytes: as many as the session with the greatest snap length asked for.
    pub data: &'a [u8],
}

/// What goes before the bytes of a packet.
pub(super) struct Head([u8; HEAD]);

const HEAD: usize = 40;
const NO_REASON: u8 = u8::MAX;

impl Head {
    pub(super) fn new(
        time: Time,
        interface: u32,
        askers: Askers,
        wire_len: usize,
        judgement: &Judgement,
    ) -> Self {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&time.as_nanos().to_ne_bytes());
        let words = [
            interface,
            u32::try_from(wire_len).unwrap_or(u32::MAX),
            judgement.rule.get(),
            judgement.source.get(),
            judgement.destination.get(),
        ];
        for (place, word) in head[8..28].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        head[28] = askers.places;
        head[36..40].copy_from_slice(&askers.epoch.to_ne_bytes());
        head[29] = judgement.verdict as u8;
        head[30] = judgement.reason.map_or(NO_REASON, |reason| reason as u8);
        head[31] = judgement.state as u8;
        Self(head)
    }

    /// What the head says, and how many bytes of packet follow.
    fn read(&self) -> (Captured<'static>, usize) {
        let word = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&self.0[at..at + 4]);
            u32::from_ne_bytes(bytes)
        };
        let mut time = [0; 8];
        time.copy_from_slice(&self.0[..8]);
        let judgement = Judgement {
            verdict: match self.0[29] {
                0 => Verdict::Allow,
                1 => Verdict::Deny,
                _ => Verdict::Reject,
            },
            reason: Reason::ALL.get(usize::from(self.0[30])).copied(),
            rule: RuleId::new(word(16)),
            source: IdentityId::new(word(20)),
            destination: IdentityId::new(word(24)),
            state: match self.0[31] {
                0 => State::None,
                1 => State::New,
                _ => State::Established,
            },
        };
        let captured = Captured {
            time: Time::from_nanos(u64::from_ne_bytes(time)),
            interface: InterfaceId(word(8)),
            askers: Askers { places: self.0[28], epoch: word(36) },
            wire_len: word(12) as usize,
            judgement,
            data: &[],
        };
        (captured, word(32) as usize)
    }
}

/// The worker's end.
pub(super) struct Ring(Producer<u8>);

/// The other end.
pub(super) struct Reader {
    bytes: Consumer<u8>,
    /// Room for one packet that goes over the end of the ring.
    packet: Vec<u8>,
}

/// A ring for `capacity` bytes.
pub(super) fn new(capacity: usize) -> (Ring, Reader) {
    let (producer, consumer) = RingBuffer::new(capacity);
    (Ring(producer), Reader { bytes: consumer, packet: Vec::new() })
}

impl Ring {
    /// Appends a packet; `false`, and nothing appended, if there is no room.
    pub(super) fn push(&mut self, head: &Head, data: &[u8]) -> bool {
        if self.0.slots() < HEAD + data.len() {
            return false;
        }
        let mut head = Head(head.0);
        head.0[32..36].copy_from_slice(&(data.len() as u32).to_ne_bytes());
        // There is room for both: only the reader changes that, and it makes more.
        self.0.push_entire_slice(&head.0).is_ok() && self.0.push_entire_slice(data).is_ok()
    }
}

impl Reader {
    /// Takes out what waits, and no more than was there at the beginning; answers how many packets.
    pub(super) fn read(&mut self, take: &mut impl FnMut(&Captured<'_>)) -> usize {
        let mut waiting = self.bytes.slots();
        let mut count = 0;
        while waiting >= HEAD {
            let mut head = Head([0; HEAD]);
            let Ok(chunk) = self.bytes.read_chunk(HEAD) else { break };
            copy(&mut head.0, chunk.as_slices());
            let (captured, len) = head.read();
            // The packet may not be there yet: then its head stays for the next time.
            if len > SNAPLEN || self.bytes.slots() < HEAD + len {
                break;
            }
            let Ok(chunk) = self.bytes.read_chunk(HEAD + len) else { break };
            let (first, second) = chunk.as_slices();
            let data = match first.get(HEAD..HEAD + len) {
                Some(data) => data,
                None => {
                    self.packet.resize(HEAD + len, 0);
                    copy(&mut self.packet, (first, second));
                    &self.packet[HEAD..]
                }
            };
            take(&Captured { data, ..captured });
            chunk.commit_all();
            waiting = waiting.saturating_sub(HEAD + len);
            count += 1;
        }
        count
    }

    /// Forgets what waits.
    pub(super) fn discard(&mut self) {
        self.read(&mut |_| {});
    }

    /// Whether the worker is gone and nothing waits.
    pub(super) fn is_over(&self) -> bool {
        self.bytes.is_abandoned() && self.bytes.is_empty()
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("waiting", &self.bytes.slots()).finish_non_exhaustive()
    }
}

fn copy(to: &mut [u8], (first, second): (&[u8], &[u8])) {
    let (a, b) = to.split_at_mut(first.len().min(to.len()));
    a.copy_from_slice(&first[..a.len()]);
    b.copy_from_slice(&second[..b.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(n: u64) -> Head {
        let judgement = Judgement {
            verdict: Verdict::Reject,
            reason: Some(Reason::PolicyRejected),
            rule: RuleId::new(7),
            source: IdentityId::new(300),
            destination: IdentityId::new(301),
            state: State::New,
        };
        let askers = Askers { places: 0b101, epoch: 9 };
        Head::new(Time::from_nanos(n), 3, askers, 1500, &judgement)
    }

    #[test]
    fn packets_come_out_as_they_went_in_wherever_the_ring_ends() {
        // No multiple of any length: over time every packet goes over the end at every place.
        let (mut ring, mut reader) = new(1009);
        let data: Vec<u8> = (0..=255).collect();
        let mut seen = 0u64;
        for n in 0..5_000u64 {
            let len = (n * 31 % 200) as usize;
            assert!(ring.push(&head(n), &data[..len]));
            if n % 3 != 0 {
                continue;
            }
            reader.read(&mut |captured| {
                assert_eq!(captured.time, Time::from_nanos(seen));
                assert_eq!(captured.data, &data[..(seen * 31 % 200) as usize]);
                assert_eq!(captured.interface.0, 3);
                assert_eq!((captured.askers.places, captured.askers.epoch), (0b101, 9));
                assert_eq!(captured.wire_len, 1500);
                let Judgement { verdict, reason, rule, state, .. } = captured.judgement;
                assert_eq!((verdict, reason), (Verdict::Reject, Some(Reason::PolicyRejected)));
                assert_eq!((rule.get(), state), (7, State::New));
                assert_eq!(captured.judgement.destination.get(), 301);
                seen += 1;
            });
        }
        assert_eq!(seen, 4_999);
    }

    #[test]
    fn what_does_not_fit_is_refused_whole() {
        let (mut ring, mut reader) = new(2 * (HEAD + 10));
        assert!(ring.push(&head(1), &[1; 10]) && ring.push(&head(2), &[2; 10]));
        assert!(!ring.push(&head(3), &[]));
        let mut seen = Vec::new();
        assert_eq!(reader.read(&mut |captured| seen.push(captured.data[0])), 2);
        assert_eq!(seen, [1, 2]);
        drop(ring);
        assert!(reader.is_over());
    }

    #[test]
    fn a_reader_on_another_thread_loses_nothing_that_was_taken() {
        let (mut ring, mut reader) = new(4096);
        let count = if cfg!(miri) { 200 } else { 100_000 };
        let writer = std::thread::spawn(move || {
            (0..count).filter(|n| ring.push(&head(*n), &[*n as u8; 64])).count()
        });
        let (mut seen, mut last) = (0, None);
        while !reader.is_over() {
            seen += reader.read(&mut |captured| {
                assert!(last < Some(captured.time), "in order");
                last = Some(captured.time);
                assert!(
                    captured
                        .data
                        .iter()
                        .all(|byte| u64::from(*byte) == captured.time.as_nanos() & 255)
                );
                assert_eq!(captured.data.len(), 64);
            });
        }
        assert_eq!(writer.join().unwrap(), seen);
    }
}
