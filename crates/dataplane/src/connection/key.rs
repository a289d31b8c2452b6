//! Which connection a packet belongs to, and in which direction it goes.

use crate::packet::{
    Headers, IcmpClass, SctpHeader, TcpHeader, Transport, Tuple, Version, transport,
};
use crate::reason::Reason;

/// The key of a connection: the same for packets of both directions.
///
/// Ends are put in numeric order. ICMP queries are not: there `a` is always who asks, so that a
/// request in one direction never meets the state of a request in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Address of one end.
    pub a: u128,
    /// Address of the other end.
    pub b: u128,
    /// Port of `a`; the identifier of an ICMP query.
    pub a_port: u16,
    /// Port of `b`; the request type of an ICMP query.
    pub b_port: u16,
    /// Address space.
    pub zone: u16,
    /// IP protocol.
    pub protocol: u8,
    /// IP version.
    pub version: Version,
}

/// The key of an IPv4 connection in 16 bytes, as the table keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(align(16))]
pub struct KeyV4(pub(super) [u64; 2]);

/// The key of an IPv6 connection in 40 bytes, as the table keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyV6(pub(super) [u64; 5]);

impl KeyV4 {
    /// Of a key whose version is [`Version::V4`]: of each address the lowest 32 bits.
    #[inline(always)]
    pub const fn new(key: &Key) -> Self {
        Self([key.a as u32 as u64 | (key.b as u32 as u64) << 32, key.ends()])
    }

    /// The key.
    pub const fn key(&self) -> Key {
        Key::from_ends(self.0[1], self.0[0] as u32 as u128, (self.0[0] >> 32) as u128, Version::V4)
    }
}

impl KeyV6 {
    /// Of a key whose version is [`Version::V6`].
    #[inline(always)]
    pub const fn new(key: &Key) -> Self {
        let (a, b) = (key.a, key.b);
        Self([a as u64, (a >> 64) as u64, b as u64, (b >> 64) as u64, key.ends()])
    }

    /// The key.
    pub const fn key(&self) -> Key {
        let [a, a_high, b, b_high, ends] = self.0;
        let a = a as u128 | (a_high as u128) << 64;
        Key::from_ends(ends, a, b as u128 | (b_high as u128) << 64, Version::V6)
    }
}

/// The direction of a packet in terms of its [`Key`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// From `a` to `b`.
    AToB = 0,
    /// From `b` to `a`.
    BToA = 1,
}

impl Direction {
    /// The other direction.
    pub const fn reversed(self) -> Self {
        match self {
            Self::AToB => Self::BToA,
            Self::BToA => Self::AToB,
        }
    }
}

/// What connection tracking needs to know of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The connection.
    pub key: Key,
    /// Direction of the packet (of the quoted packet, for an ICMP error).
    pub direction: Direction,
    /// What the packet does to the connection.
    pub segment: Segment,
    /// Bytes of the IP packet, for counting.
    pub bytes: u32,
}

/// What a packet means to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// A TCP segment and the bytes of its payload.
    Tcp(TcpHeader, u16),
    /// A datagram: opens a connection, or goes on with one.
    Datagram,
    /// An SCTP packet.
    Sctp(SctpHeader),
    /// A request: opens, and comes only from the end that opened.
    Request,
    /// A reply: comes only from the other end.
    Reply,
    /// An ICMP error about a packet of the connection.
    Error {
        /// Sequence number quoted from a TCP segment, verification tag from an SCTP packet.
        seq: Option<u32>,
    },
}

impl Key {
    /// The canonical key of a flow with ports (or without any), and which way `tuple` goes.
    #[inline]
    pub fn of(tuple: &Tuple) -> (Self, Direction) {
        let forward =
            (tuple.source, tuple.source_port) <= (tuple.destination, tuple.destination_port);
        // Exchanged by mask, not by branch: which end is the lower one is anybody's guess.
        let exchange = u128::from(forward).wrapping_sub(1);
        let addresses = (tuple.source ^ tuple.destination) & exchange;
        let ports = (tuple.source_port ^ tuple.destination_port) & exchange as u16;
        let key = Self {
            a: tuple.source ^ addresses,
            b: tuple.destination ^ addresses,
            a_port: tuple.source_port ^ ports,
            b_port: tuple.destination_port ^ ports,
            zone: tuple.zone,
            protocol: tuple.protocol,
            version: tuple.version,
        };
        (key, if forward { Direction::AToB } else { Direction::BToA })
    }

    /// The tuple of packets that go in `direction`.
    #[inline]
    pub fn tuple(&self, direction: Direction) -> Tuple {
        let tuple = Tuple {
            source: self.a,
            destination: self.b,
            source_port: self.a_port,
            destination_port: self.b_port,
            zone: self.zone,
            protocol: self.protocol,
            version: self.version,
        };
        match direction {
            Direction::AToB => tuple,
            Direction::BToA => tuple.reversed(),
        }
    }

    /// All but the addresses, and a bit that keeps any key from being all zeros, as empty memory is.
    #[inline(always)]
    const fn ends(&self) -> u64 {
        1 << 63
            | self.a_port as u64
            | (self.b_port as u64) << 16
            | (self.zone as u64) << 32
            | (self.protocol as u64) << 48
    }

    const fn from_ends(word: u64, a: u128, b: u128, version: Version) -> Self {
        Self {
            a,
            b,
            a_port: word as u16,
            b_port: (word >> 16) as u16,
            zone: (word >> 32) as u16,
            protocol: (word >> 48) as u8,
            version,
        }
    }

    #[inline]
    fn from_a(tuple: &Tuple) -> Self {
        Self {
            a: tuple.source,
            b: tuple.destination,
            a_port: tuple.source_port,
            b_port: tuple.destination_port,
            zone: tuple.zone,
            protocol: tuple.protocol,
            version: tuple.version,
        }
    }

    /// The key of an ICMP query: `a` asks.
    #[inline]
    fn query(tuple: &Tuple, id: u16, request: u8) -> Self {
        Self { a_port: id, b_port: request.into(), ..Self::from_a(tuple) }
    }
}

/// What a packet is to the connection table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Belongs to a connection, existing or new.
    Member(Probe),
    /// Stands alone: judged by policy, opens nothing.
    Alone,
}

impl Probe {
    /// What the packet in `frame` with these `headers` is to the connection table.
    ///
    /// # Errors
    /// [`Reason::IcmpErrorUnrelated`] for an ICMP error that quotes nothing readable, or something
    /// that the error's receiver did not send.
    #[inline]
    pub fn of(frame: &[u8], headers: &Headers) -> Result<Role, Reason> {
        let tuple = &headers.tuple;
        let bytes = headers.ip_len();
        let (segment, (key, direction)) = match headers.transport {
            Transport::Tcp(tcp) => {
                let payload = headers.l4_len.saturating_sub(tcp.header_len.into());
                (Segment::Tcp(tcp, payload), Key::of(tuple))
            }
            Transport::Sctp(sctp) => (Segment::Sctp(sctp), Key::of(tuple)),
            Transport::Udp | Transport::Other => (Segment::Datagram, Key::of(tuple)),
            Transport::Icmp { kind, id, class, .. } => match class {
                IcmpClass::Request => {
                    (Segment::Request, (Key::query(tuple, id, kind), Direction::AToB))
                }
                IcmpClass::Reply { request } => {
                    let asked = tuple.reversed();
                    (Segment::Reply, (Key::query(&asked, id, request), Direction::BToA))
                }
                IcmpClass::Error => return Self::of_error(frame, headers).map(Role::Member),
                IcmpClass::Other => return Ok(Role::Alone),
            },
        };
        Ok(Role::Member(Self { key, direction, segment, bytes }))
    }

    #[cold]
    fn of_error(frame: &[u8], headers: &Headers) -> Result<Self, Reason> {
        let unrelated = Reason::IcmpErrorUnrelated;
        let end = usize::from(headers.l4) + usize::from(headers.l4_len);
        let frame = frame.get(..end.min(frame.len())).unwrap_or(frame);
        let quoted =
            transport::quoted(frame, headers.l4.into(), headers.tuple.version).ok_or(unrelated)?;
        // The error must go to whoever sent the quoted packet.
        if quoted.tuple.source != headers.tuple.destination {
            return Err(unrelated);
        }
        let tuple = Tuple { zone: headers.tuple.zone, ..quoted.tuple };
        let (key, direction) = match quoted.transport {
            Transport::Icmp { kind, id, class: IcmpClass::Request, .. } => {
                (Key::query(&tuple, id, kind), Direction::AToB)
            }
            Transport::Icmp { id, class: IcmpClass::Reply { request }, .. } => {
                (Key::query(&tuple.reversed(), id, request), Direction::BToA)
            }
            _ => Key::of(&tuple),
        };
        let seq = match quoted.transport {
            Transport::Tcp(tcp) => Some(tcp.seq),
            Transport::Sctp(sctp) => Some(sctp.tag),
            _ => None,
        };
        Ok(Self { key, direction, segment: Segment::Error { seq }, bytes: headers.ip_len() })
    }
}
