//! The structs that cross the border, and what they mean in Rust.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::ffi::c_char;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_core::dataplane::pipeline::{Judgement, State};
use portcullis_core::policy::Flow;

use crate::status::{Failure, PORTCULLIS_BAD_VALUE, PORTCULLIS_PREFIX};

/// An IP address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct portcullis_address {
    /// 4 or 6.
    pub family: u8,
    /// In network byte order; an IPv4 address is the first four bytes, the rest is ignored.
    pub bytes: [u8; 16],
}

/// A prefix; bits beyond its length are ignored.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct portcullis_prefix {
    /// An address within.
    pub address: portcullis_address,
    /// Bits: 0 to 32, or to 128.
    pub length: u8,
}

/// A text with documents in it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_text {
    /// The name that errors carry where a file name would stand, NUL-terminated UTF-8.
    pub name: *const c_char,
    /// The documents: YAML or JSON, UTF-8, several separated by `---`. Need not end with NUL.
    pub data: *const u8,
    /// Bytes of `data`.
    pub len: usize,
}

/// A new connection, for judging without packets.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_flow {
    /// Who opens it.
    pub source: portcullis_address,
    /// To whom; of the same family.
    pub destination: portcullis_address,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port, host byte order; for ICMP the type.
    pub source_port: u16,
    /// Destination port; for ICMP the code.
    pub destination_port: u16,
}

/// A packet to judge.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_packet {
    /// The frame from its Ethernet header on: all of it, or as much as was captured.
    pub data: *const u8,
    /// Bytes of `data`.
    pub len: usize,
    /// Bytes that the frame had on the wire; 0 is `len`.
    pub wire_len: usize,
}

/// Let it through.
pub const PORTCULLIS_ALLOW: u8 = 0;

/// Drop it silently.
pub const PORTCULLIS_DENY: u8 = 1;

/// Drop it and tell the sender.
pub const PORTCULLIS_REJECT: u8 = 2;

/// `reason` of what may pass.
pub const PORTCULLIS_NO_REASON: u8 = 255;

/// `rule` of what no rule decided.
pub const PORTCULLIS_NO_RULE: u32 = 4294967295;

/// What becomes of a packet or a flow, and why. 16 bytes; this one never grows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct portcullis_judgement {
    /// `PORTCULLIS_ALLOW`, `PORTCULLIS_DENY` or `PORTCULLIS_REJECT`.
    pub verdict: u8,
    /// Why it does not pass: see `portcullis_reason_name`; else `PORTCULLIS_NO_REASON`.
    pub reason: u8,
    /// 0: nothing to do with connections; 1: opens one, or tried to; 2: belongs to a known one.
    pub state: u8,
    /// Zero.
    pub reserved: u8,
    /// The rule that decided, for `portcullis_engine_rule`; else `PORTCULLIS_NO_RULE`.
    pub rule: u32,
    /// Identity of who opened the connection.
    pub source: u32,
    /// Identity of the other end.
    pub destination: u32,
}

impl portcullis_address {
    pub(crate) fn read(&self) -> Result<IpAddr, Failure> {
        match self.family {
            4 => {
                let [a, b, c, d, ..] = self.bytes;
                Ok(Ipv4Addr::new(a, b, c, d).into())
            }
            6 => Ok(Ipv6Addr::from(self.bytes).into()),
            family => {
                let text = format_args!("error: address family {family}: must be 4 or 6");
                Err(Failure::new(PORTCULLIS_BAD_VALUE, text))
            }
        }
    }
}

impl From<IpAddr> for portcullis_address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&address.octets());
                Self { family: 4, bytes }
            }
            IpAddr::V6(address) => Self { family: 6, bytes: address.octets() },
        }
    }
}

impl portcullis_prefix {
    pub(crate) fn read(&self) -> Result<ipnet::IpNet, Failure> {
        ipnet::IpNet::new(self.address.read()?, self.length).map_err(|_| {
            let text = format_args!("error: prefix length {}: too long", self.length);
            Failure::new(PORTCULLIS_PREFIX, text)
        })
    }
}

impl portcullis_flow {
    pub(crate) fn read(&self) -> Result<Flow, Failure> {
        let ports = (self.source_port, self.destination_port);
        Ok(Flow::new(self.source.read()?, self.destination.read()?, self.protocol, ports))
    }

    /// As [`portcullis_flow::read`], for what only one family makes sense of.
    pub(crate) fn read_one_family(&self) -> Result<Flow, Failure> {
        let flow = self.read()?;
        if flow.source.is_ipv4() != flow.destination.is_ipv4() {
            let text = "error: a flow of two address families";
            return Err(Failure::new(PORTCULLIS_BAD_VALUE, text));
        }
        Ok(flow)
    }
}

impl From<&Judgement> for portcullis_judgement {
    fn from(judgement: &Judgement) -> Self {
        Self {
            verdict: judgement.verdict as u8,
            reason: judgement.reason.map_or(PORTCULLIS_NO_REASON, |reason| reason as u8),
            state: match judgement.state {
                State::None => 0,
                State::New => 1,
                State::Established => 2,
            },
            reserved: 0,
            rule: judgement.rule.get(),
            source: judgement.source.get(),
            destination: judgement.destination.get(),
        }
    }
}

/// 0 or 1.
pub(crate) fn flag(value: u8) -> Result<bool, Failure> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(PORTCULLIS_BAD_VALUE.into()),
    }
}

/// Text in an array, cut so that a NUL ends it.
pub(crate) fn fixed<const N: usize>(text: &str) -> [c_char; N] {
    let mut array = [0; N];
    for (room, byte) in array[..N - 1].iter_mut().zip(text.bytes()) {
        *room = byte as c_char;
    }
    array
}
