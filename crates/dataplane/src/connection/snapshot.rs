//! Connections across a restart: written to a file, read back by the next process.
//!
//! A file is a header of 16 bytes (`PCTS`, version, the wall clock), records of 96 bytes, and an end
//! of 96 bytes with their number and a checksum; all little-endian. Times are written as "how long
//! ago", and who reads adds what has passed since by the wall clock. Rules and identities are not
//! written, because their numbers mean nothing in another process: each connection is judged by the new
//! policy at its next packet and gets them then; with [`super::OnPolicyChange::Cut`] it is forgotten.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, SystemTime};

use super::key::Direction;
use super::sctp::{Sctp, SctpPhase};
use super::state::{Connection, Grant, Protocol, Traffic, idle};
use super::table::Table;
use super::tcp::{Phase, Side, Tcp, pack_window, unpack_window};
use super::{Ended, Key};
use crate::clock::Time;
use crate::packet::{Version, protocol};

const MAGIC: [u8; 4] = *b"PCTS";
const FORMAT: u32 = 3;
const HEADER: usize = 16;
const RECORD: usize = 96;

/// The generation of connections that no policy of this process has judged; none is ever published
/// under it.
pub(crate) const UNJUDGED: u32 = 0;

/// Clocks of two processes may be set so differently before a file counts as one from the future.
const SKEW: Duration = Duration::from_secs(60);

/// Why a file of connections was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Reading failed.
    #[error("the file of connections cannot be read: {0}")]
    Read(#[source] io::Error),
    /// It ends before its end.
    #[error("the file of connections is cut off: start without it")]
    Truncated,
    /// It is something else.
    #[error("not a file of connections: it begins with {0:02x?}; name the file that was saved")]
    Magic([u8; 4]),
    /// It was written by another version.
    #[error("a file of connections in format {0}; this version reads {FORMAT}: start without it")]
    Format(u32),
    /// A record says what cannot be.
    #[error("connection {record} of the file: {what}; start without the file")]
    Record {
        /// Its number, from 0.
        record: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// Its checksum is not that of what it holds.
    #[error("the file of connections is damaged: its checksum is wrong; start without it")]
    Checksum,
    /// It holds more than twice as many connections as the table.
    #[error(
        "the file holds more than {most} connections, twice what the table does: start without it, or with a larger table"
    )]
    TooMany {
        /// Most connections of a file.
        most: u32,
    },
    /// It was saved later than now: how old it is, nobody knows.
    #[error("the file of connections was saved {} s in the future: set the clock, or start without it", .0.as_secs())]
    Future(Duration),
}

/// Whether the windows of saved TCP connections still hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Windows {
    /// They do: packets outside of them are dropped. Right where nothing passed between saving and
    /// restoring, as with failure mode closed. A connection that moved on by more than a window
    /// nevertheless is refused until it is opened anew.
    #[default]
    Hold,
    /// Packets passed unseen, as with failure mode open: windows of connections that were open are
    /// not checked any more, as if they had been picked up ([`super::Config::pick_up`]).
    Moved,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Connections that are in the table now.
    pub restored: u32,
    /// Connections left out: the table is full or knows them already, or they were silent for days.
    pub left_out: u32,
    /// How long ago they were saved, by the wall clock.
    pub age: Duration,
}

impl Table {
    /// Writes all connections as they are at `now`, which is `wall` by the wall clock; answers how
    /// many. Workers may go on meanwhile: what they change is written as it was before or after.
    /// O(capacity in use); memory of 64 KiB.
    ///
    /// # Errors
    /// Writing failed; what was written till then is no file that can be read.
    pub fn save(&self, now: Time, wall: SystemTime, out: &mut impl Write) -> io::Result<u32> {
        let now = now.as_millis() as u32;
        let wall = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut out = Summed { out, sum: Sum::default(), waiting: Vec::with_capacity(BLOCK) };
        out.put(&MAGIC)?;
        out.put(&FORMAT.to_le_bytes())?;
        out.put(&(wall.as_millis() as u64).to_le_bytes())?;
        let (mut count, mut failed) = (0u32, Ok(()));
        self.for_each(|key, connection| {
            if failed.is_ok() {
                failed = out.put(&encode(now, &key, &connection));
                count += 1;
            }
        });
        failed?;
        out.flush()?;
        let end = end(count, out.sum);
        out.put(&end)?;
        out.flush()?;
        Ok(count)
    }

    /// Reads connections back at `now`, which is `wall` by the wall clock. Nothing is put into the
    /// table unless the whole file is right. Reads 96 bytes at a time: give it a buffer. Takes memory
    /// for the connections of the file, which are at most twice the table's capacity.
    ///
    /// # Errors
    /// The file is not one, damaged, or too large; the table is as it was.
    pub fn restore(
        &self,
        now: Time,
        wall: SystemTime,
        windows: Windows,
        file: &mut impl Read,
    ) -> Result<Restored, RestoreError> {
        let mut header = [0; HEADER];
        fill(file, &mut header)?;
        let mut sum = Sum::default();
        sum.add(&header);
        let mut header = Fields(&header);
        let magic = header.take();
        if magic != MAGIC {
            return Err(RestoreError::Magic(magic));
        }
        let format = header.u32();
        if format != FORMAT {
            return Err(RestoreError::Format(format));
        }
        let age = age(u64::from_le_bytes(header.take()), wall)?;
        let clock = Clock { now: now.as_millis() as u32, away: age, windows };
        let most = u32::try_from(self.capacity()).unwrap_or(u32::MAX).saturating_mul(2);
        let (mut record, mut connections) = (0, Vec::new());
        loop {
            let mut bytes = [0; RECORD];
            fill(file, &mut bytes)?;
            if bytes[0] == END {
                if bytes != end(record, sum) {
                    return Err(RestoreError::Checksum);
                }
                break;
            }
            if record == most {
                return Err(RestoreError::TooMany { most });
            }
            sum.add(&bytes);
            let connection = decode(&clock, &bytes);
            connections.extend(connection.map_err(|what| RestoreError::Record { record, what })?);
            record += 1;
        }
        let restored = self.insert_all(&connections) as u32;
        Ok(Restored { restored, left_out: record - restored, age })
    }
}

/// Connections that were silent for longer than so many milliseconds (12 days) are left out: times wrap,
/// and what seems to come is taken for now.
const LONGEST: u32 = u32::MAX / 4;

/// Bytes written at a time.
const BLOCK: usize = 1 << 16;

/// What is written, with its checksum.
struct Summed<'a, W> {
    out: &'a mut W,
    sum: Sum,
    waiting: Vec<u8>,
}

impl<W: Write> Summed<'_, W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.waiting.len() + bytes.len() > BLOCK {
            self.flush()?;
        }
        self.waiting.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sum.add(&self.waiting);
        self.out.write_all(&self.waiting)?;
        self.waiting.clear();
        Ok(())
    }
}

/// FNV-1a over words of 64 bits: for damage, not against forgers, who could write the whole file.
#[derive(Clone, Copy)]
struct Sum(u64);

impl Default for Sum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Sum {
    /// All that is written comes in multiples of eight bytes.
    fn add(&mut self, bytes: &[u8]) {
        for word in bytes.chunks_exact(8) {
            let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
            self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// Where a record has its IP version, the end has this.
const END: u8 = 0;

fn end(count: u32, sum: Sum) -> [u8; RECORD] {
    let mut end = [END; RECORD];
    end[4..8].copy_from_slice(&count.to_le_bytes());
    end[8..16].copy_from_slice(&sum.0.to_le_bytes());
    end
}

fn fill(file: &mut impl Read, bytes: &mut [u8]) -> Result<(), RestoreError> {
    file.read_exact(bytes).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => RestoreError::Truncated,
        _ => RestoreError::Read(error),
    })
}

/// How long before `wall` a file was saved.
fn age(saved: u64, wall: SystemTime) -> Result<Duration, RestoreError> {
    let wall = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let saved = Duration::from_millis(saved);
    match wall.checked_sub(saved) {
        Some(age) => Ok(age),
        None if saved - wall <= SKEW => Ok(Duration::ZERO),
        None => Err(RestoreError::Future(saved - wall)),
    }
}

/// How the times and windows of a file are to be read.
struct Clock {
    now: u32,
    away: Duration,
    windows: Windows,
}

impl Clock {
    /// When it was, `ago` milliseconds before the file was saved; `None` if that is too long ago for
    /// the wrapping clock.
    fn before(&self, ago: u32) -> Option<u32> {
        let ago = u32::try_from(u128::from(ago) + self.away.as_millis()).ok()?;
        Some(self.now.wrapping_sub(ago))
    }

    /// The same of the last packet: beyond [`LONGEST`] nobody waits for another.
    fn lately_before(&self, ago: u32) -> Option<u32> {
        self.before(ago).filter(|seen| self.now.wrapping_sub(*seen) <= LONGEST)
    }
}

fn encode(now: u32, key: &Key, connection: &Connection) -> [u8; RECORD] {
    // Workers go on while connections are saved: what they saw since `now` was just now.
    let now = now.wrapping_add(idle(connection.seen, now));
    let mut record = [0; RECORD];
    let mut rest = &mut record[..];
    let mut put = |bytes: &[u8]| {
        let (here, after) = std::mem::take(&mut rest).split_at_mut(bytes.len());
        here.copy_from_slice(bytes);
        rest = after;
    };
    put(&[key.version as u8, key.protocol]);
    put(&key.a.to_le_bytes());
    put(&key.b.to_le_bytes());
    for number in [key.a_port, key.b_port, key.zone] {
        put(&number.to_le_bytes());
    }
    put(&now.wrapping_sub(connection.created).to_le_bytes());
    put(&now.wrapping_sub(connection.seen).to_le_bytes());
    // 48 bits last for years.
    for traffic in connection.traffic {
        put(&traffic.packets.to_le_bytes()[..6]);
        put(&traffic.bytes.to_le_bytes()[..6]);
    }
    let back = u8::from(connection.opened == Direction::BToA);
    match connection.protocol {
        Protocol::Sctp(sctp) => {
            put(&[back | u8::from(sctp.picked_up) << 1, sctp.phase as u8, 0, 0]);
            for tag in sctp.tags.into_iter().chain(sctp.offered) {
                put(&tag.to_le_bytes());
            }
        }
        Protocol::Datagram { answered } => put(&[back, u8::from(answered), 0, 0]),
        Protocol::Tcp(tcp) => {
            let [there, backwards] = &tcp.sides;
            let fins = u8::from(there.fin) | u8::from(backwards.fin) << 1;
            let flags = back | u8::from(tcp.picked_up) << 1 | fins << 2;
            put(&[flags, tcp.phase as u8, there.scale, backwards.scale]);
            for side in &tcp.sides {
                put(&side.end.to_le_bytes());
                put(&side.max_end.to_le_bytes());
                put(&pack_window(side.max_window, side.scale).to_le_bytes());
            }
        }
    }
    record
}

/// `None`: right, and over long ago.
fn decode(clock: &Clock, record: &[u8; RECORD]) -> Result<Option<Ended>, &'static str> {
    let mut fields = Fields(record);
    let [version, number] = fields.take();
    let version = match version {
        4 => Version::V4,
        6 => Version::V6,
        _ => return Err("an IP version that is none"),
    };
    let (a, b) = (u128::from_le_bytes(fields.take()), u128::from_le_bytes(fields.take()));
    if version == Version::V4 && (a | b) >> 32 != 0 {
        return Err("an IPv4 address of more than 32 bits");
    }
    let (a_port, b_port, zone) = (fields.u16(), fields.u16(), fields.u16());
    let key = Key { a, b, a_port, b_port, zone, protocol: number, version };
    let query = matches!(number, protocol::ICMP | protocol::ICMPV6);
    if !query && (a, a_port) > (b, b_port) {
        return Err("its ends in the wrong order");
    }
    // One that was opened too long ago to be said seems younger: that is only told, never judged by.
    let created = clock.before(fields.u32()).unwrap_or(clock.now.wrapping_add(1));
    let seen = clock.lately_before(fields.u32());
    let traffic = [(); 2].map(|()| Traffic { packets: fields.u48(), bytes: fields.u48() });
    let [flags, kind, there, back] = fields.take();
    let protocol = if number == protocol::TCP {
        if kind > Phase::Closed as u8 || there > 15 || back > 15 || flags > 15 {
            return Err("a TCP state that is none");
        }
        let mut side = |n: u8, scale: u8| Side {
            end: fields.u32(),
            max_end: fields.u32(),
            max_window: unpack_window(fields.u16(), scale),
            scale,
            fin: flags >> (2 + n) & 1 != 0,
        };
        let sides = [side(0, there), side(1, back)];
        let phase = Phase::from_number(kind);
        let moved = clock.windows == Windows::Moved && !phase.half_open();
        // Which flags were seen before the restart is not written.
        Protocol::Tcp(Tcp { phase, sides, picked_up: flags & 2 != 0 || moved, flags: 0 })
    } else if number == protocol::SCTP {
        if kind > SctpPhase::Aborted as u8 || flags > 3 {
            return Err("an SCTP state that is none");
        }
        let mut tags = || [fields.u32(), fields.u32()];
        let (tags, offered) = (tags(), tags());
        let phase = SctpPhase::from_number(kind);
        Protocol::Sctp(Sctp { phase, tags, offered, picked_up: flags & 2 != 0 })
    } else {
        Protocol::Datagram { answered: kind != 0 }
    };
    let opened = if flags & 1 == 0 { Direction::AToB } else { Direction::BToA };
    if query && opened == Direction::BToA {
        return Err("an ICMP query that was opened by who is asked");
    }
    let (generation, grant) = (UNJUDGED, Grant::default());
    Ok(seen.map(|seen| {
        let connection = Connection { protocol, opened, generation, grant, created, seen, traffic };
        Ended { key, connection }
    }))
}

/// Little-endian fields of a record, one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    /// The next `N` bytes; zeros beyond the end, which the layout never reaches.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (here, rest) = self.0.split_at(N.min(self.0.len()));
        self.0 = rest;
        here.try_into().unwrap_or([0; N])
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u48(&mut self) -> u64 {
        let mut bytes = [0; 8];
        bytes[..6].copy_from_slice(&self.take::<6>());
        u64::from_le_bytes(bytes)
    }
}
