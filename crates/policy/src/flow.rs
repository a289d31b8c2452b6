//! Flows as questions: who sends what to whom, and the answer's words.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::model::{Icmp, IpVersion, PortMatch, PortSpec, ProtocolMatch, Traffic};

/// IANA protocol numbers that policies speak of.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;

    /// Whether flows of this protocol have ports that rules can match.
    pub const fn has_ports(protocol: u8) -> bool {
        matches!(protocol, TCP | UDP | SCTP)
    }

    /// Whether flows of this protocol have an ICMP type and code.
    pub const fn is_icmp(protocol: u8) -> bool {
        matches!(protocol, ICMP | ICMPV6)
    }
}

/// Whether a flow may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

impl Verdict {
    /// `allow` or `deny`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// The first packet of a new connection. Both addresses are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Who sends it.
    pub source: IpAddr,
    /// Who is to receive it.
    pub destination: IpAddr,
    /// What it is.
    pub header: Header,
}

/// The part of a flow that [`Traffic`] matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Header {
    /// IP version.
    pub ip_version: IpVersion,
    /// IP protocol (IANA number).
    pub protocol: u8,
    /// Source port; the type for ICMP and ICMPv6; else 0.
    pub source_port: u16,
    /// Destination port; the code for ICMP and ICMPv6; else 0.
    pub destination_port: u16,
}

impl Header {
    /// Type and code, if the protocol is ICMP or ICMPv6.
    pub fn icmp(&self) -> Option<(u8, u8)> {
        // Types and codes are one byte; a larger number comes from no packet.
        let byte = |n: u16| u8::try_from(n).unwrap_or(u8::MAX);
        protocol::is_icmp(self.protocol)
            .then(|| (byte(self.source_port), byte(self.destination_port)))
    }
}

impl Flow {
    /// A flow with ports; for ICMP the type and the code stand in for them.
    pub fn new(source: IpAddr, destination: IpAddr, protocol: u8, ports: (u16, u16)) -> Self {
        let ip_version = if destination.is_ipv4() { IpVersion::V4 } else { IpVersion::V6 };
        let (source_port, destination_port) = ports;
        let header = Header { ip_version, protocol, source_port, destination_port };
        Self { source, destination, header }
    }
}

/// As [`crate::ask::parse_flow`] reads it: `tcp 10.0.0.1:40000 > 10.0.0.2:80`, `icmp 10.0.0.1 >
/// 10.0.0.2 type 8 code 0`, `47 10.0.0.1 > 10.0.0.2`.
impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, destination, header } = self;
        let name = match header.protocol {
            protocol::TCP => "tcp",
            protocol::UDP => "udp",
            protocol::SCTP => "sctp",
            protocol::ICMP => "icmp",
            protocol::ICMPV6 => "icmpv6",
            number => return write!(f, "{number} {source} > {destination}"),
        };
        if protocol::has_ports(header.protocol) {
            let source = SocketAddr::new(*source, header.source_port);
            let destination = SocketAddr::new(*destination, header.destination_port);
            return write!(f, "{name} {source} > {destination}");
        }
        write!(f, "{name} {source} > {destination}")?;
        match header.icmp() {
            Some((kind, code)) => write!(f, " type {kind} code {code}"),
            None => Ok(()),
        }
    }
}

/// The number behind a port name at one end of a flow.
pub(crate) trait NamedPorts {
    /// Whether `name` means `port` for `protocol` there.
    fn is(&self, name: &str, protocol: u8, port: u16) -> bool;
}

impl Traffic {
    /// Whether the header is such traffic; names are looked up at the end they belong to.
    pub(crate) fn matches(
        &self,
        header: &Header,
        source: &impl NamedPorts,
        destination: &impl NamedPorts,
    ) -> bool {
        self.ip_version.is_none_or(|version| version == header.ip_version)
            && self.protocol.matches(header.protocol)
            && self.source_ports.matches(header.protocol, header.source_port, source)
            && self.destination_ports.matches(header.protocol, header.destination_port, destination)
            && self.icmp.is_none_or(|icmp| icmp.matches(header))
            && !self.not_icmp.is_some_and(|icmp| icmp.matches(header))
    }
}

impl ProtocolMatch {
    pub(crate) fn matches(self, protocol: u8) -> bool {
        match self {
            Self::Any => true,
            Self::Is(number) => number == protocol,
            Self::Not(number) => number != protocol,
        }
    }
}

impl PortMatch {
    fn matches(&self, protocol: u8, port: u16, names: &impl NamedPorts) -> bool {
        let holds = |spec: &PortSpec| match spec {
            PortSpec::Range(first, last) => (*first..=*last).contains(&port),
            PortSpec::Named(name) => names.is(name, protocol, port),
        };
        if !protocol::has_ports(protocol) {
            return self.any_of.is_empty();
        }
        (self.any_of.is_empty() || self.any_of.iter().any(holds)) && !self.none_of.iter().any(holds)
    }
}

impl Icmp {
    fn matches(self, header: &Header) -> bool {
        header.icmp().is_some_and(|(kind, code)| {
            self.kind.is_none_or(|k| k == kind) && self.code.is_none_or(|c| c == code)
        })
    }
}
