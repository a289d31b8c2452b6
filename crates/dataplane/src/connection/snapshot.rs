//! Connections across a restart: written to a file, read back by the next process.
//!
//! A file is a header of 12 bytes (`PCTS`, version, number of records), and records of 96 bytes,
//! little-endian. Times are written as "how long ago". Rules and identities are not written, because
//! their numbers mean nothing in another process: with [`super::OnPolicyChange::Rejudge`] each
//! connection is judged by the new policy at its next packet and gets them then; with `Keep` it goes
//! on without them; with `Cut` it is forgotten.

use std::io::{self, Read, Write};

use super::key::Direction;
use super::sctp::{Sctp, SctpPhase};
use super::state::{Connection, Grant, Protocol, Traffic};
use super::table::Table;
use super::tcp::{Phase, Side, Tcp, pack_window, unpack_window};
use super::{Ended, Key};
use crate::clock::Time;
use crate::packet::{Version, protocol};

const MAGIC: [u8; 4] = *b"PCTS";
const FORMAT: u32 = 2;
const RECORD: usize = 96;

/// Why a file of connections was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Reading failed, or the file ends early.
    #[error("the file of connections cannot be read: {0}")]
    Read(#[from] io::Error),
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
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Connections that are in the table now.
    pub restored: u32,
    /// Connections left out: the table is full or knows them already.
    pub left_out: u32,
}

impl Table {
    /// Writes all connections; answers how many. Workers may go on meanwhile: what they change is
    /// written as it was before or after.
    ///
    /// # Errors
    /// Writing failed.
    pub fn save(&self, now: Time, out: &mut impl Write) -> io::Result<u32> {
        let now = now.as_millis() as u32;
        let mut records = Vec::new();
        let mut count = 0u32;
        self.for_each(|key, connection| {
            records.extend_from_slice(&encode(now, &key, &connection));
            count += 1;
        });
        out.write_all(&MAGIC)?;
        out.write_all(&FORMAT.to_le_bytes())?;
        out.write_all(&count.to_le_bytes())?;
        out.write_all(&records)?;
        Ok(count)
    }

    /// Reads connections back. Nothing is put into the table unless the whole file is right.
    ///
    /// # Errors
    /// The file is not one, or damaged.
    pub fn restore(&self, now: Time, file: &mut impl Read) -> Result<Restored, RestoreError> {
        let mut header = [0; 12];
        file.read_exact(&mut header)?;
        let mut header = Fields(&header);
        let magic = header.take();
        if magic != MAGIC {
            return Err(RestoreError::Magic(magic));
        }
        let format = header.u32();
        if format != FORMAT {
            return Err(RestoreError::Format(format));
        }
        let count = header.u32();
        let now = now.as_millis() as u32;
        let mut connections = Vec::new();
        for record in 0..count {
            let mut bytes = [0; RECORD];
            file.read_exact(&mut bytes)?;
            let connection = decode(now, &bytes);
            connections.push(connection.map_err(|what| RestoreError::Record { record, what })?);
        }
        let mut restored = Restored::default();
        for Ended { key, connection } in &connections {
            if self.adopt(key, connection) {
                restored.restored += 1;
            } else {
                restored.left_out += 1;
            }
        }
        Ok(restored)
    }
}

fn encode(now: u32, key: &Key, connection: &Connection) -> [u8; RECORD] {
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

fn decode(now: u32, record: &[u8; RECORD]) -> Result<Ended, &'static str> {
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
    let (created, seen) = (now.wrapping_sub(fields.u32()), now.wrapping_sub(fields.u32()));
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
        // Which flags were seen before the restart is not written.
        let picked_up = flags & 2 != 0;
        Protocol::Tcp(Tcp { phase: Phase::from_number(kind), sides, picked_up, flags: 0 })
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
    let (generation, grant) = (0, Grant::default());
    let connection = Connection { protocol, opened, generation, grant, created, seen, traffic };
    Ok(Ended { key, connection })
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
