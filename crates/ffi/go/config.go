package portcullis

/*
#include "bridge.h"
*/
import "C"

import (
	"time"
	"unsafe"
)

// OnPolicyChange says what a change of policies does to live connections.
type OnPolicyChange uint8

// What may happen to live connections.
const (
	Rejudge OnPolicyChange = C.PORTCULLIS_REJUDGE // they are judged again at their next packet (the default)
	Keep    OnPolicyChange = C.PORTCULLIS_KEEP    // they are left alone
	Cut     OnPolicyChange = C.PORTCULLIS_CUT     // they are forgotten
)

// Config holds the settings of an engine; the zero value is all defaults.
type Config struct {
	// Connections at a time, at most.
	Connections int
	// EventCapacity is how many events wait at most, for each worker and judge.
	EventCapacity int
	// OnPolicyChange: what a change does to live connections.
	OnPolicyChange OnPolicyChange
	// DropARP drops ARP, which passes else.
	DropARP bool
	// JudgeNeighbourDiscovery judges IPv6 neighbour discovery like everything else.
	JudgeNeighbourDiscovery bool
	// PassNonIP lets frames pass that are neither IP nor ARP.
	PassNonIP bool
	// PickUp takes over connections that are older than the engine if the policy allows them.
	PickUp bool
	// Prove proves programs equal to the policies before they are published; ProvePolicies only those of
	// changed policies, not those of changed endpoints.
	Prove, ProvePolicies bool
	// ProofThreads at most; as many as there are processors, but at most four, unless set.
	ProofThreads uint32
	// ProgramBytes a compiled program may have at most, 1 GiB unless set, and ProgramCells into which
	// rules between two classes may cut one protocol, 2^22 unless set.
	ProgramBytes, ProgramCells uint64
	// EvictWhenFull lets the oldest idle connection make room if the table is full; else new ones are
	// refused.
	EvictWhenFull bool
	// LeaveChecksums does not complete checksums that a veth left unfinished.
	LeaveChecksums bool
	// Identity limits each identity.
	Identity Limits
	// RejectsPerSecond is how many senders of rejected packets are answered a second, by each worker
	// and judge, and RejectBurst how many answers may be saved up; 1000 and 200 unless set.
	RejectsPerSecond, RejectBurst uint32
	// RejectDenied rejects packets that policies deny: their senders are told, by a TCP reset or by ICMP
	// "administratively prohibited". [Judge.Outgoing] has these answers, firewalls send them.
	RejectDenied bool
	// HalfOpenInAll: TCP connections at a time whose handshake is not finished, of all identities
	// together; 0 is no limit.
	HalfOpenInAll uint32
	// Timeouts of connections other than the two below.
	Timeouts Timeouts
	// Fragments bounds packets in pieces.
	Fragments Fragments
	// Tunnels whose packets are judged by what they carry.
	Tunnels []Tunnel
	// VirtualClock lets the engine's clock stand still until [Engine.SetTime] moves it. For replays and
	// simulations.
	VirtualClock bool
	// TCPTimeout and UDPTimeout are after how long an idle connection is forgotten: 2 h 4 min and, of
	// UDP that goes both ways, 3 min unless set. In whole milliseconds, at most 49 days.
	TCPTimeout, UDPTimeout time.Duration
	// Retention is how long it is remembered who had which identity, so that events read late carry
	// the names of their time; 5 min unless set.
	Retention time.Duration
	// DeniedBurst is how many dropped packets a second are told one by one, of each worker and of the
	// same identities, reason, rule and protocol; those beyond are told together, so that a flood
	// costs a few events a second. 0: all are told one by one.
	DeniedBurst uint32
}

// Limits are those of each identity; 0 is no limit.
type Limits struct {
	Connections  uint32 // at a time
	HalfOpen     uint32 // TCP connections at a time whose handshake is not finished
	NewPerSecond uint32 // new connections, at most 4 million
	NewBurst     uint32 // new connections that may be saved up; a second's worth unless set
}

// Timeouts are after how long connections are forgotten; 0 is the default of each. In whole milliseconds,
// at most 24 days.
type Timeouts struct {
	TCPSYNSent     time.Duration // a SYN without answer: 20 s
	TCPSYNReceived time.Duration // a SYN+ACK without ACK: 30 s
	TCPClosing     time.Duration // one end has closed: 4 min
	TCPLastACK     time.Duration // both ends have closed: 30 s
	TCPTimeWait    time.Duration // closed in order: 60 s
	TCPClosed      time.Duration // reset: 5 s
	UDPUnanswered  time.Duration // 30 s
	SCTP           time.Duration // open and silent: 2 h 4 min
	SCTPOpening    time.Duration // handshake not finished: 30 s
	SCTPClosing    time.Duration // being shut down: 30 s
	SCTPClosed     time.Duration // aborted or shut down: 5 s
	ICMP           time.Duration // queries: 30 s
	Other          time.Duration // other protocols: 10 min
}

// Fragments bounds packets in pieces; 0 is the default of each.
type Fragments struct {
	Packets          uint32        // at a time: 4096, at most a million
	PacketsPerSource uint32        // of those, from one source address: 256
	Bytes            uint32        // of fragments that wait for their first: 1 MiB
	PerPacket        uint32        // 64
	Timeout          time.Duration // after which a packet is forgotten: 15 s
}

// TunnelKind is how packets are wrapped.
type TunnelKind uint8

// The kinds of tunnels.
const (
	VXLAN  TunnelKind = C.PORTCULLIS_TUNNEL_VXLAN  // RFC 7348
	Geneve TunnelKind = C.PORTCULLIS_TUNNEL_GENEVE // RFC 8926
	IPInIP TunnelKind = C.PORTCULLIS_TUNNEL_IP     // IPv4 and IPv6 in either
)

// Tunnel is one whose packets are judged by what they carry.
type Tunnel struct {
	Kind TunnelKind
	// Port is the UDP port at which it ends; 0 is IANA's, 4789 or 6081.
	Port uint16
	// VNI identifies the network: below 2^24.
	VNI uint32
	// AllNetworks means those of the port that are not named one by one, instead of VNI.
	AllNetworks bool
	// Zone is the address space that it leads to: see [Engine.Zone]. 0 is that of packets outside of
	// tunnels.
	Zone uint16
}

// c is what the settings are for C.
func (config *Config) c(a *arena) (*C.portcullis_engine_config, error) {
	wrong := func(text string) error { return &Error{Op: "New", Status: BadValue, Text: "error: " + text} }
	if config.Connections < 0 || config.EventCapacity < 0 {
		return nil, wrong("a count below zero")
	}
	if config.Retention < 0 || config.Retention > 0 && config.Retention < time.Millisecond {
		return nil, wrong("retention: whole milliseconds")
	}
	c := (*C.portcullis_engine_config)(a.alloc(1, C.sizeof_portcullis_engine_config))
	*c = C.portcullis_engine_config{
		struct_size:                   C.sizeof_portcullis_engine_config,
		connections:                   C.size_t(config.Connections),
		event_capacity:                C.size_t(config.EventCapacity),
		on_policy_change:              C.uint8_t(config.OnPolicyChange),
		drop_arp:                      flag(config.DropARP),
		judge_neighbour_discovery:     flag(config.JudgeNeighbourDiscovery),
		pass_non_ip:                   flag(config.PassNonIP),
		pick_up:                       flag(config.PickUp),
		prove:                         flag(config.Prove),
		evict_when_full:               flag(config.EvictWhenFull),
		leave_checksums:               flag(config.LeaveChecksums),
		identity_connections:          C.uint32_t(config.Identity.Connections),
		identity_half_open:            C.uint32_t(config.Identity.HalfOpen),
		identity_new_per_second:       C.uint32_t(config.Identity.NewPerSecond),
		identity_new_burst:            C.uint32_t(config.Identity.NewBurst),
		rejects_per_second:            C.uint32_t(config.RejectsPerSecond),
		reject_burst:                  C.uint32_t(config.RejectBurst),
		retention_ms:                  C.uint64_t(config.Retention.Milliseconds()),
		denied_burst:                  C.uint32_t(config.DeniedBurst),
		reject_denied:                 flag(config.RejectDenied),
		virtual_clock:                 flag(config.VirtualClock),
		half_open_in_all:              C.uint32_t(config.HalfOpenInAll),
		fragmented_packets:            C.uint32_t(config.Fragments.Packets),
		fragmented_packets_per_source: C.uint32_t(config.Fragments.PacketsPerSource),
		fragment_bytes:                C.uint32_t(config.Fragments.Bytes),
		fragments_per_packet:          C.uint32_t(config.Fragments.PerPacket),
		proof_threads:                 C.uint32_t(config.ProofThreads),
		program_bytes:                 C.uint64_t(config.ProgramBytes),
		program_cells:                 C.uint64_t(config.ProgramCells),
	}
	if config.ProvePolicies && !config.Prove {
		c.prove = 2
	}
	t := &config.Timeouts
	for to, from := range map[*C.uint32_t]time.Duration{
		&c.tcp_timeout_ms: config.TCPTimeout, &c.udp_timeout_ms: config.UDPTimeout,
		&c.tcp_syn_sent_timeout_ms: t.TCPSYNSent, &c.tcp_syn_received_timeout_ms: t.TCPSYNReceived,
		&c.tcp_closing_timeout_ms: t.TCPClosing, &c.tcp_last_ack_timeout_ms: t.TCPLastACK,
		&c.tcp_time_wait_timeout_ms: t.TCPTimeWait, &c.tcp_closed_timeout_ms: t.TCPClosed,
		&c.udp_unanswered_timeout_ms: t.UDPUnanswered, &c.sctp_timeout_ms: t.SCTP,
		&c.sctp_opening_timeout_ms: t.SCTPOpening, &c.sctp_closing_timeout_ms: t.SCTPClosing,
		&c.sctp_closed_timeout_ms: t.SCTPClosed, &c.icmp_timeout_ms: t.ICMP, &c.other_timeout_ms: t.Other,
		&c.fragment_timeout_ms: config.Fragments.Timeout,
	} {
		var err error
		if *to, err = millis("New", from); err != nil {
			return nil, err
		}
	}
	c.tunnels = (*C.portcullis_tunnel)(a.alloc(len(config.Tunnels), C.sizeof_portcullis_tunnel))
	c.tunnel_count = C.size_t(len(config.Tunnels))
	for n, tunnel := range config.Tunnels {
		unsafe.Slice(c.tunnels, len(config.Tunnels))[n] = C.portcullis_tunnel{
			kind:         C.uint8_t(tunnel.Kind),
			all_networks: flag(tunnel.AllNetworks),
			port:         C.uint16_t(tunnel.Port),
			vni:          C.uint32_t(tunnel.VNI),
			zone:         C.uint16_t(tunnel.Zone),
		}
	}
	return c, nil
}
