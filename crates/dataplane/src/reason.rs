//! Why a packet was not forwarded: one enum for counters, events, flow records and documentation.

use std::fmt;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was dropped or refused.
        ///
        /// Names are stable: they appear in JSON, metrics and the documentation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable name.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// A sentence for people.
            pub const fn description(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc,)+).trim_ascii(),)+
                }
            }
        }
    };
}

reasons! {
    /// The frame ends within the Ethernet header or a VLAN tag.
    TruncatedEthernet = "truncated_ethernet",
    /// More than two VLAN tags.
    VlanDepth = "vlan_depth",
    /// Neither IP nor ARP, and the wire is not set to pass such frames.
    NonIp = "non_ip",
    /// The IP version field contradicts the EtherType.
    IpVersion = "ip_version",
    /// The frame ends within the IP header.
    TruncatedIp = "truncated_ip",
    /// A header length or total length of IP that cannot be.
    IpLength = "ip_length",
    /// More IPv6 extension headers than are followed, or one where it must not be.
    ExtensionHeaders = "extension_headers",
    /// The packet ends within an IPv6 extension header.
    TruncatedExtension = "truncated_extension",
    /// A routing header of type 0 (RFC 5095).
    RoutingHeader = "routing_header",
    /// The packet ends within the transport header.
    TruncatedTransport = "truncated_transport",
    /// A TCP data offset or UDP length that cannot be.
    TransportLength = "transport_length",
    /// A combination of TCP flags that no stack sends.
    TcpFlags = "tcp_flags",
    /// A packet of several buffers whose first does not hold all headers.
    SplitHeaders = "split_headers",
    /// A tunnel header that does not add up, or that says what is not understood.
    TunnelHeader = "tunnel_header",
    /// A network (VNI) of a configured tunnel port that is not configured itself.
    TunnelNetwork = "tunnel_network",
    /// A piece of a packet of a configured tunnel: what it carries cannot be judged.
    TunnelFragment = "tunnel_fragment",
    /// A fragment too small to hold the transport header, or that would overwrite it (RFC 1858, 3128).
    FragmentTiny = "fragment_tiny",
    /// A fragment that ends beyond the longest IP packet, or whose length is no multiple of eight.
    FragmentLength = "fragment_length",
    /// A fragment that overlaps another of its packet (RFC 5722); all of the packet is dropped.
    FragmentOverlap = "fragment_overlap",
    /// The fragment store is full, or this sender has too many packets in pieces.
    FragmentLimit = "fragment_limit",
    /// Held until the first fragment of its packet is judged; counted as what becomes of it then.
    FragmentHeld = "fragment_held",
    /// The first fragment did not come in time.
    FragmentTimeout = "fragment_timeout",
    /// A TCP segment of no known connection that does not open one.
    TcpNotOpening = "tcp_not_opening",
    /// A TCP segment outside the windows of its connection.
    TcpOutOfWindow = "tcp_out_of_window",
    /// A TCP reset whose sequence number is not within the connection's window.
    TcpInvalidReset = "tcp_invalid_reset",
    /// A TCP segment that does not fit the state of its connection.
    TcpState = "tcp_state",
    /// An SCTP packet of no known association that does not open one.
    SctpNotOpening = "sctp_not_opening",
    /// An SCTP packet with a verification tag that its association does not have.
    SctpTag = "sctp_tag",
    /// An SCTP packet whose chunks contradict each other or the state of its association.
    SctpState = "sctp_state",
    /// An ICMP error that quotes no known connection.
    IcmpErrorUnrelated = "icmp_error_unrelated",
    /// An ICMP reply without a request.
    IcmpUnsolicitedReply = "icmp_unsolicited_reply",
    /// The connection table is full.
    TableFull = "table_full",
    /// The source identity has as many connections as it may.
    ConnectionLimit = "connection_limit",
    /// The source identity opens connections faster than it may.
    ConnectionRate = "connection_rate",
    /// Too many half-open connections.
    HalfOpenLimit = "half_open_limit",
    /// The connection changed hands between two workers more often than is tried.
    Contention = "contention",
    /// No policy has been loaded yet.
    NoPolicy = "no_policy",
    /// The policy denies the flow.
    PolicyDenied = "policy_denied",
    /// The policy rejects the flow; the sender is told.
    PolicyRejected = "policy_rejected",
    /// A token bucket of the rule or the identity is empty.
    RateLimit = "rate_limit",
    /// The transmit queue is full.
    TransmitFull = "transmit_full",
    /// The outgoing interface is down or gone.
    PortDown = "port_down",
    /// A switch's packet for an address that is behind the port where it came in.
    SamePort = "same_port",
    /// A switch's packet for all ports, and its port has sent as many of these as it may.
    FloodLimit = "flood_limit",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_numbers_dense() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
        for (n, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, n);
            assert!(reason.description().ends_with('.'));
        }
    }
}
