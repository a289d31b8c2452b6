//! Settings of engines.

#![allow(non_camel_case_types, reason = "the names are C's")]

use core::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use portcullis_core::EngineConfig;
use portcullis_core::dataplane::clock::Virtual;
use portcullis_core::dataplane::connection::{OnFull, OnPolicyChange, Rate, Timeouts};
use portcullis_core::dataplane::packet::{Encapsulation, Tunnel};
use portcullis_core::dataplane::pipeline::fragment;
use portcullis_core::policy;

use crate::raw::{self, Growable};
use crate::status::{Failure, PORTCULLIS_BAD_SIZE, PORTCULLIS_BAD_VALUE};
use crate::types::flag;

/// A policy change leaves live connections alone.
pub const PORTCULLIS_KEEP: u8 = 1;

/// Live connections are judged again at their next packet (the default).
pub const PORTCULLIS_REJUDGE: u8 = 2;

/// Live connections are forgotten.
pub const PORTCULLIS_CUT: u8 = 3;

/// Settings of an engine. Set all of it to zero, then `struct_size` to `sizeof`; 0 is the default of
/// every field.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_engine_config {
    /// `sizeof(portcullis_engine_config)`.
    pub struct_size: usize,
    /// Most connections at a time: at most 2^31.
    pub connections: usize,
    /// Events that wait at most, for each worker and judge: at most 2^24.
    pub event_capacity: usize,
    /// `PORTCULLIS_KEEP`, `PORTCULLIS_REJUDGE` or `PORTCULLIS_CUT`.
    pub on_policy_change: u8,
    /// 1: ARP is dropped.
    pub drop_arp: u8,
    /// 1: IPv6 neighbour discovery is judged like everything else.
    pub judge_neighbour_discovery: u8,
    /// 1: frames that are neither IP nor ARP pass.
    pub pass_non_ip: u8,
    /// 1: connections that are older than the engine may be picked up if the policy allows them.
    pub pick_up: u8,
    /// 1: programs are proved equal to the policies before they are published; 2: only those of changed
    /// policies, not those of changed endpoints.
    pub prove: u8,
    /// 1: if the table is full the oldest idle connection makes room for a new one, which is refused
    /// else.
    pub evict_when_full: u8,
    /// 1: checksums that a veth left unfinished are not completed.
    pub leave_checksums: u8,
    /// Connections of each identity at a time, at most; 0 is no limit.
    pub identity_connections: u32,
    /// Of each identity, TCP connections at a time whose handshake is not finished.
    pub identity_half_open: u32,
    /// New connections of each identity a second: at most 4 million.
    pub identity_new_per_second: u32,
    /// New connections of each identity that may be saved up; a second's worth unless set.
    pub identity_new_burst: u32,
    /// Answers to senders of rejected packets a second, of each worker and judge; 1000 unless set.
    pub rejects_per_second: u32,
    /// Answers that may be saved up; 200 unless set.
    pub reject_burst: u32,
    /// Milliseconds after which an idle TCP connection is forgotten; 2 h 4 min unless set.
    pub tcp_timeout_ms: u32,
    /// The same of UDP that goes both ways; 3 min unless set.
    pub udp_timeout_ms: u32,
    /// Milliseconds for which it is remembered who had which identity, so that events read late carry
    /// the names of their time; 5 min unless set.
    pub retention_ms: u64,
    /// Dropped packets a second that are told one by one, of each worker and of the same identities,
    /// reason, rule and protocol; those beyond are told together, so that a flood costs a few events a
    /// second. 0: all are told one by one.
    pub denied_burst: u32,
    /// 1: packets that policies deny are rejected: their senders are told, by a TCP reset or by ICMP
    /// "administratively prohibited", as often as `rejects_per_second` allows. Judges hand these answers
    /// out (`portcullis_judge_frames`), firewalls send them.
    pub reject_denied: u8,
    /// 1: the clock of the engine stands still until `portcullis_engine_set_time` moves it. For replays
    /// and simulations.
    pub virtual_clock: u8,
    /// Zeros.
    pub reserved: [u8; 2],
    /// TCP connections at a time whose handshake is not finished, of all identities together.
    pub half_open_in_all: u32,
    /// Milliseconds after which a TCP SYN without answer is forgotten; 20 s unless set, as all below.
    pub tcp_syn_sent_timeout_ms: u32,
    /// A SYN+ACK without ACK; 30 s.
    pub tcp_syn_received_timeout_ms: u32,
    /// TCP of which one end has closed; 4 min.
    pub tcp_closing_timeout_ms: u32,
    /// TCP of which both ends have closed; 30 s.
    pub tcp_last_ack_timeout_ms: u32,
    /// TCP that was closed in order; 60 s.
    pub tcp_time_wait_timeout_ms: u32,
    /// TCP that was reset; 5 s.
    pub tcp_closed_timeout_ms: u32,
    /// UDP without answer; 30 s.
    pub udp_unanswered_timeout_ms: u32,
    /// SCTP that is open and silent; 2 h 4 min.
    pub sctp_timeout_ms: u32,
    /// SCTP whose handshake is not finished; 30 s.
    pub sctp_opening_timeout_ms: u32,
    /// SCTP that is being shut down; 30 s.
    pub sctp_closing_timeout_ms: u32,
    /// SCTP that was aborted or shut down; 5 s.
    pub sctp_closed_timeout_ms: u32,
    /// ICMP queries; 30 s.
    pub icmp_timeout_ms: u32,
    /// Other protocols; 10 min.
    pub other_timeout_ms: u32,
    /// Packets in pieces at a time; 4096 unless set, at most a million.
    pub fragmented_packets: u32,
    /// Of those, from one source address; 256 unless set.
    pub fragmented_packets_per_source: u32,
    /// Bytes of fragments that wait for their first; 1 MiB unless set.
    pub fragment_bytes: u32,
    /// Fragments of one packet; 64 unless set.
    pub fragments_per_packet: u32,
    /// Milliseconds after which a packet in pieces is forgotten; 15 s unless set.
    pub fragment_timeout_ms: u32,
    /// Threads of a proof at most; as many as there are processors, but at most four, unless set.
    pub proof_threads: u32,
    /// Bytes of a compiled program at most; 1 GiB unless set.
    pub program_bytes: u64,
    /// Cells into which rules between two classes may cut one protocol; 2^22 unless set.
    pub program_cells: u64,
    /// Tunnels whose packets are judged by what they carry.
    pub tunnels: *const portcullis_tunnel,
    /// How many.
    pub tunnel_count: usize,
}

/// VXLAN (RFC 7348).
pub const PORTCULLIS_TUNNEL_VXLAN: u8 = 1;
/// Geneve (RFC 8926).
pub const PORTCULLIS_TUNNEL_GENEVE: u8 = 2;
/// IPv4 and IPv6 in either (RFC 2003, RFC 2473, RFC 4213).
pub const PORTCULLIS_TUNNEL_IP: u8 = 3;

/// A tunnel whose packets are judged by what they carry. This one never grows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct portcullis_tunnel {
    /// `PORTCULLIS_TUNNEL_...`.
    pub kind: u8,
    /// 1: all networks of the port that are not named one by one, and `vni` is 0.
    pub all_networks: u8,
    /// The UDP port at which it ends; 0 is IANA's, 4789 or 6081. 0 for `PORTCULLIS_TUNNEL_IP`.
    pub port: u16,
    /// The identifier of the network, below 2^24. 0 for `PORTCULLIS_TUNNEL_IP`.
    pub vni: u32,
    /// The address space that it leads to, with a cluster and policies of its own
    /// (`portcullis_zone_apply`); 0 is that of packets outside of tunnels.
    pub zone: u16,
}

// SAFETY: `repr(C)`, the size first, integers and raw pointers only.
unsafe impl Growable for portcullis_engine_config {
    const FIRST: usize = core::mem::offset_of!(Self, evict_when_full);
}

const MOST_CONNECTIONS: usize = 1 << 31;
const MOST_EVENTS: usize = 1 << 24;
const MOST_A_SECOND: u32 = 4_000_000;
const MOST_FRAGMENTED: u32 = 1 << 20;
const MOST_THREADS: u32 = 1024;

impl portcullis_engine_config {
    pub(crate) const DEFAULT: Self = Self {
        struct_size: size_of::<Self>(),
        connections: 0,
        event_capacity: 0,
        on_policy_change: 0,
        drop_arp: 0,
        judge_neighbour_discovery: 0,
        pass_non_ip: 0,
        pick_up: 0,
        prove: 0,
        evict_when_full: 0,
        leave_checksums: 0,
        identity_connections: 0,
        identity_half_open: 0,
        identity_new_per_second: 0,
        identity_new_burst: 0,
        rejects_per_second: 0,
        reject_burst: 0,
        tcp_timeout_ms: 0,
        udp_timeout_ms: 0,
        retention_ms: 0,
        denied_burst: 0,
        reject_denied: 0,
        virtual_clock: 0,
        reserved: [0; 2],
        half_open_in_all: 0,
        tcp_syn_sent_timeout_ms: 0,
        tcp_syn_received_timeout_ms: 0,
        tcp_closing_timeout_ms: 0,
        tcp_last_ack_timeout_ms: 0,
        tcp_time_wait_timeout_ms: 0,
        tcp_closed_timeout_ms: 0,
        udp_unanswered_timeout_ms: 0,
        sctp_timeout_ms: 0,
        sctp_opening_timeout_ms: 0,
        sctp_closing_timeout_ms: 0,
        sctp_closed_timeout_ms: 0,
        icmp_timeout_ms: 0,
        other_timeout_ms: 0,
        fragmented_packets: 0,
        fragmented_packets_per_source: 0,
        fragment_bytes: 0,
        fragments_per_packet: 0,
        fragment_timeout_ms: 0,
        proof_threads: 0,
        program_bytes: 0,
        program_cells: 0,
        tunnels: core::ptr::null(),
        tunnel_count: 0,
    };

    /// What it says, and the clock if that is the caller's.
    ///
    /// # Safety
    /// `tunnels` is NULL or has as many as it says.
    pub(crate) unsafe fn read(&self) -> Result<(EngineConfig, Option<Arc<Virtual>>), Failure> {
        let mut config = EngineConfig::default();
        let pipeline = &mut config.pipeline;
        if self.connections > 0 {
            if self.connections > MOST_CONNECTIONS {
                return Err(PORTCULLIS_BAD_VALUE.into());
            }
            pipeline.connections.capacity = self.connections;
        }
        if self.event_capacity > 0 {
            if self.event_capacity > MOST_EVENTS {
                return Err(PORTCULLIS_BAD_VALUE.into());
            }
            pipeline.event_capacity = self.event_capacity;
        }
        pipeline.connections.on_policy_change = match self.on_policy_change {
            0 | PORTCULLIS_REJUDGE => OnPolicyChange::Rejudge,
            PORTCULLIS_KEEP => OnPolicyChange::Keep,
            PORTCULLIS_CUT => OnPolicyChange::Cut,
            _ => return Err(PORTCULLIS_BAD_VALUE.into()),
        };
        pipeline.pass_arp = !flag(self.drop_arp)?;
        pipeline.pass_neighbour_discovery = !flag(self.judge_neighbour_discovery)?;
        pipeline.pass_non_ip = flag(self.pass_non_ip)?;
        pipeline.connections.pick_up = flag(self.pick_up)?;
        pipeline.denied_burst = NonZeroU32::new(self.denied_burst);
        pipeline.complete_checksums = !flag(self.leave_checksums)?;
        if flag(self.evict_when_full)? {
            pipeline.connections.on_full = OnFull::EvictOldest;
        }
        let set = |value: u32| (value > 0).then_some(value);
        let limits = &mut pipeline.connections.limits;
        limits.connections = set(self.identity_connections);
        limits.half_open = set(self.identity_half_open);
        limits.half_open_in_all = set(self.half_open_in_all);
        limits.rate = set(self.identity_new_per_second).map(|per_second| Rate {
            per_second,
            burst: set(self.identity_new_burst).unwrap_or(per_second),
        });
        if self.identity_new_per_second > MOST_A_SECOND || self.rejects_per_second > MOST_A_SECOND {
            return Err(PORTCULLIS_BAD_VALUE.into());
        }
        let rejects = &mut pipeline.reject_rate;
        rejects.per_second = set(self.rejects_per_second).unwrap_or(rejects.per_second);
        rejects.burst = set(self.reject_burst).unwrap_or(rejects.burst);
        self.read_timeouts(&mut pipeline.connections.timeouts);
        self.read_fragments(&mut pipeline.fragments)?;
        // SAFETY: by this function's contract.
        for tunnel in unsafe { raw::slice(self.tunnels, self.tunnel_count) }? {
            let opened = tunnel.read().and_then(|opened| {
                pipeline.tunnels.open(opened, tunnel.zone).map_err(|_| PORTCULLIS_BAD_VALUE)
            });
            opened?;
        }
        if self.retention_ms > 0 {
            config.retention = Duration::from_millis(self.retention_ms);
        }
        config.policy.prove = match self.prove {
            0 => policy::Prove::Never,
            1 => policy::Prove::Everything,
            2 => policy::Prove::Policies,
            _ => return Err(PORTCULLIS_BAD_VALUE.into()),
        };
        match self.proof_threads {
            0 => {}
            threads @ 1..=MOST_THREADS => config.policy.proof_threads = threads as usize,
            _ => return Err(PORTCULLIS_BAD_VALUE.into()),
        }
        if self.program_bytes > 0 {
            let bytes = usize::try_from(self.program_bytes).map_err(|_| PORTCULLIS_BAD_VALUE)?;
            config.policy.max_program_bytes = bytes;
        }
        if self.program_cells > 0 {
            config.policy.max_cells = self.program_cells;
        }
        config.reject_denied = flag(self.reject_denied)?;
        let clock = flag(self.virtual_clock)?.then(Arc::<Virtual>::default);
        if let Some(clock) = &clock {
            config.clock = Arc::clone(clock) as _;
        }
        if self.reserved != [0; 2] {
            return Err(PORTCULLIS_BAD_SIZE.into());
        }
        Ok((config, clock))
    }

    fn read_timeouts(&self, timeouts: &mut Timeouts) {
        for (to, from) in [
            (&mut timeouts.tcp_syn_sent, self.tcp_syn_sent_timeout_ms),
            (&mut timeouts.tcp_syn_received, self.tcp_syn_received_timeout_ms),
            (&mut timeouts.tcp_established, self.tcp_timeout_ms),
            (&mut timeouts.tcp_closing, self.tcp_closing_timeout_ms),
            (&mut timeouts.tcp_last_ack, self.tcp_last_ack_timeout_ms),
            (&mut timeouts.tcp_time_wait, self.tcp_time_wait_timeout_ms),
            (&mut timeouts.tcp_closed, self.tcp_closed_timeout_ms),
            (&mut timeouts.udp_unanswered, self.udp_unanswered_timeout_ms),
            (&mut timeouts.udp, self.udp_timeout_ms),
            (&mut timeouts.sctp, self.sctp_timeout_ms),
            (&mut timeouts.sctp_opening, self.sctp_opening_timeout_ms),
            (&mut timeouts.sctp_closing, self.sctp_closing_timeout_ms),
            (&mut timeouts.sctp_closed, self.sctp_closed_timeout_ms),
            (&mut timeouts.icmp, self.icmp_timeout_ms),
            (&mut timeouts.other, self.other_timeout_ms),
        ] {
            if from > 0 {
                *to = from;
            }
        }
    }

    fn read_fragments(&self, fragments: &mut fragment::Config) -> Result<(), Failure> {
        if self.fragmented_packets > MOST_FRAGMENTED {
            return Err(PORTCULLIS_BAD_VALUE.into());
        }
        for (to, from) in [
            (&mut fragments.packets, self.fragmented_packets),
            (&mut fragments.packets_per_source, self.fragmented_packets_per_source),
            (&mut fragments.held_bytes, self.fragment_bytes),
            (&mut fragments.fragments, self.fragments_per_packet),
        ] {
            if from > 0 {
                *to = from as usize;
            }
        }
        if self.fragment_timeout_ms > 0 {
            fragments.timeout = self.fragment_timeout_ms;
        }
        Ok(())
    }
}

impl portcullis_tunnel {
    fn read(&self) -> Result<Tunnel, i32> {
        let (encapsulation, usual) = match self.kind {
            PORTCULLIS_TUNNEL_VXLAN => (Encapsulation::Vxlan, 4789),
            PORTCULLIS_TUNNEL_GENEVE => (Encapsulation::Geneve, 6081),
            PORTCULLIS_TUNNEL_IP if (self.all_networks, self.port, self.vni) == (0, 0, 0) => {
                return Ok(Tunnel::Ip);
            }
            _ => return Err(PORTCULLIS_BAD_VALUE),
        };
        let port = if self.port == 0 { usual } else { self.port };
        match (self.all_networks, self.vni) {
            (0, vni) => Ok(Tunnel::Network { encapsulation, port, vni }),
            (1, 0) => Ok(Tunnel::Port { encapsulation, port }),
            _ => Err(PORTCULLIS_BAD_VALUE),
        }
    }
}
