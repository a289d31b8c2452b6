/*
 * portcullis: an embeddable data plane for container firewalls.
 *
 * Made by cbindgen from crates/ffi/src (crates/ffi/header); do not edit. docs/embedding.md explains it.
 *
 * Every function answers a status, PORTCULLIS_OK or why not, unless it says otherwise, and writes its
 * out-parameters only on success. Handles (engine, policies, judge, recorder, capture, firewall) are numbers in the form of
 * pointers: a wrong or freed one is refused with PORTCULLIS_BAD_HANDLE, never followed. All other
 * pointers must be NULL or valid for what is described: the library checks NULL, alignment and sizes;
 * a wild pointer, or a buffer shorter than it is said to be, is undefined behaviour. Nothing that is
 * passed in is kept after the call, and the buffers of one call must not overlap. A call that takes a
 * handle may come from any thread; a judge takes one call at a time (PORTCULLIS_BUSY). After fork() the
 * child may only exec.
 *
 * The library prints nothing, not even after a mistake of its own (portcullis_last_panic tells), unless
 * the process must end: out of memory, or a panic while one is handled. It touches no signal handlers, and its threads block signals.
 */

#ifndef PORTCULLIS_H
#define PORTCULLIS_H



#include <stddef.h>
#include <stdint.h>

/**
 * The number of the ABI that this header describes. It grows by one with every change of the header
 * that an old caller could notice.
 */
#define PORTCULLIS_ABI_VERSION 1

/**
 * A policy change leaves live connections alone.
 */
#define PORTCULLIS_KEEP 1

/**
 * Live connections are judged again at their next packet (the default).
 */
#define PORTCULLIS_REJUDGE 2

/**
 * Live connections are forgotten.
 */
#define PORTCULLIS_CUT 3

/**
 * VXLAN (RFC 7348).
 */
#define PORTCULLIS_TUNNEL_VXLAN 1

/**
 * Geneve (RFC 8926).
 */
#define PORTCULLIS_TUNNEL_GENEVE 2

/**
 * IPv4 and IPv6 in either (RFC 2003, RFC 2473, RFC 4213).
 */
#define PORTCULLIS_TUNNEL_IP 3

/**
 * The end of a tier denies (the default).
 */
#define PORTCULLIS_TIER_DENY 0

/**
 * The end of a tier goes on with the next tier.
 */
#define PORTCULLIS_TIER_PASS 1

/**
 * Anything.
 */
#define PORTCULLIS_MATCH_ANY 1

/**
 * Any live pod.
 */
#define PORTCULLIS_MATCH_POD 2

/**
 * A pod whose own labels satisfy `selector`.
 */
#define PORTCULLIS_MATCH_POD_LABELS 3

/**
 * A pod in the namespace `name`.
 */
#define PORTCULLIS_MATCH_NAMESPACE 4

/**
 * A pod whose namespace's labels satisfy `selector` (`kubernetes.io/metadata.name` included).
 */
#define PORTCULLIS_MATCH_NAMESPACE_LABELS 5

/**
 * A pod that runs under the service account `name`.
 */
#define PORTCULLIS_MATCH_SERVICE_ACCOUNT 6

/**
 * A pod whose service account's labels satisfy `selector`.
 */
#define PORTCULLIS_MATCH_SERVICE_ACCOUNT_LABELS 7

/**
 * An address of a node whose labels satisfy `selector`.
 */
#define PORTCULLIS_MATCH_NODE_LABELS 8

/**
 * An address within `prefix`, whoever owns it.
 */
#define PORTCULLIS_MATCH_CIDR 9

/**
 * An address within a prefix of the set `set`.
 */
#define PORTCULLIS_MATCH_SET 10

/**
 * Whatever the address: the labels of the cluster's namespace `name` satisfy `selector`.
 */
#define PORTCULLIS_MATCH_NAMESPACE_HAS 11

/**
 * The one of `parts` does not hold.
 */
#define PORTCULLIS_MATCH_NOT 12

/**
 * All of `parts` hold.
 */
#define PORTCULLIS_MATCH_ALL 13

/**
 * At least one of `parts` holds; with no part: nothing.
 */
#define PORTCULLIS_MATCH_ONE_OF 14

/**
 * The expression is about ICMP or ICMPv6 messages.
 */
#define PORTCULLIS_ICMP_ANY 1

/**
 * `icmp_type` counts.
 */
#define PORTCULLIS_ICMP_TYPE 2

/**
 * `icmp_code` counts.
 */
#define PORTCULLIS_ICMP_CODE 4

/**
 * Any IP protocol.
 */
#define PORTCULLIS_PROTOCOL_ANY 0

/**
 * This one.
 */
#define PORTCULLIS_PROTOCOL_IS 1

/**
 * Every other.
 */
#define PORTCULLIS_PROTOCOL_NOT 2

/**
 * networking.k8s.io/v1 NetworkPolicy.
 */
#define PORTCULLIS_KIND_NETWORK_POLICY 0

/**
 * policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.
 */
#define PORTCULLIS_KIND_CLUSTER_NETWORK_POLICY 1

/**
 * policy.networking.k8s.io/v1alpha1 AdminNetworkPolicy.
 */
#define PORTCULLIS_KIND_ADMIN_NETWORK_POLICY 2

/**
 * policy.networking.k8s.io/v1alpha1 BaselineAdminNetworkPolicy.
 */
#define PORTCULLIS_KIND_BASELINE_ADMIN_NETWORK_POLICY 3

/**
 * projectcalico.org/v3 NetworkPolicy; named like the Kubernetes kind.
 */
#define PORTCULLIS_KIND_CALICO_NETWORK_POLICY 4

/**
 * projectcalico.org/v3 GlobalNetworkPolicy.
 */
#define PORTCULLIS_KIND_GLOBAL_NETWORK_POLICY 5

/**
 * projectcalico.org/v3 StagedNetworkPolicy.
 */
#define PORTCULLIS_KIND_STAGED_NETWORK_POLICY 6

/**
 * projectcalico.org/v3 StagedGlobalNetworkPolicy.
 */
#define PORTCULLIS_KIND_STAGED_GLOBAL_NETWORK_POLICY 7

/**
 * projectcalico.org/v3 StagedKubernetesNetworkPolicy.
 */
#define PORTCULLIS_KIND_STAGED_KUBERNETES_NETWORK_POLICY 8

/**
 * The direction allows the flow.
 */
#define PORTCULLIS_ACTION_ALLOW 1

/**
 * The direction denies the flow.
 */
#define PORTCULLIS_ACTION_DENY 2

/**
 * Leave this tier, go on with the next.
 */
#define PORTCULLIS_ACTION_PASS 3

/**
 * Note the flow, go on with the next rule.
 */
#define PORTCULLIS_ACTION_LOG 4

/**
 * Flows towards the endpoint that a policy selects.
 */
#define PORTCULLIS_INGRESS 1

/**
 * Flows from it.
 */
#define PORTCULLIS_EGRESS 2

/**
 * A rate counts packets.
 */
#define PORTCULLIS_PACKETS 0

/**
 * A rate counts bytes of frames, Ethernet header included.
 */
#define PORTCULLIS_BYTES 1

/**
 * A fragment that was held and passes now that the first of its packet came: to be sent on, after the
 * packets of the call.
 */
#define PORTCULLIS_FRAME_RELEASED 1

/**
 * An answer to a packet that was rejected: to be sent back to where the packet came from.
 */
#define PORTCULLIS_FRAME_ANSWER 2

/**
 * A connection was opened.
 */
#define PORTCULLIS_EVENT_OPENED 1

/**
 * A packet was dropped.
 */
#define PORTCULLIS_EVENT_DROPPED 2

/**
 * A connection ended.
 */
#define PORTCULLIS_EVENT_ENDED 3

/**
 * A connection was judged anew, and another rule allows it now, or it is another identity's.
 */
#define PORTCULLIS_EVENT_CHANGED 4

/**
 * A packet that stands alone and opens nothing, such as an ICMP message that is no query, was allowed.
 */
#define PORTCULLIS_EVENT_PASSED 5

/**
 * `close`: both ends had said FIN.
 */
#define PORTCULLIS_CLOSE_FIN 1

/**
 * `close`: TCP reset.
 */
#define PORTCULLIS_CLOSE_RESET 2

/**
 * `close`: silent for too long.
 */
#define PORTCULLIS_CLOSE_TIMEOUT 3

/**
 * `close`: had to make room.
 */
#define PORTCULLIS_CLOSE_EVICTED 4

/**
 * `close`: another connection between the same ends took its place.
 */
#define PORTCULLIS_CLOSE_REPLACED 5

/**
 * `close`: the policy in force denies it.
 */
#define PORTCULLIS_CLOSE_POLICY 6

/**
 * Records have the fields that docs/flow-records.md tells of (the default).
 */
#define PORTCULLIS_FORM_OWN 0

/**
 * Records are flows as Cilium's Hubble prints them (`hubble observe -o json`).
 */
#define PORTCULLIS_FORM_HUBBLE 1

/**
 * Windows of saved TCP connections hold: packets outside of them are dropped. Right where nothing passed
 * between saving and restoring, as with `PORTCULLIS_FAIL_CLOSED` (the default).
 */
#define PORTCULLIS_WINDOWS_HOLD 0

/**
 * Packets passed unseen, as with `PORTCULLIS_FAIL_OPEN`: windows of connections that were open are not
 * checked any more.
 */
#define PORTCULLIS_WINDOWS_MOVED 1

/**
 * `rule` of what is counted for several rules together.
 */
#define PORTCULLIS_OTHER_RULES 4294967294

/**
 * Zero-copy if both interfaces have it, else the next lesser mode (the default).
 */
#define PORTCULLIS_MODE_PREFER_ZEROCOPY 0

/**
 * Zero-copy or an error.
 */
#define PORTCULLIS_MODE_REQUIRE_ZEROCOPY 1

/**
 * Copy mode with the program in the driver, else generic.
 */
#define PORTCULLIS_MODE_PREFER_COPY 2

/**
 * Copy mode with the program in the driver, or an error.
 */
#define PORTCULLIS_MODE_REQUIRE_COPY 3

/**
 * Generic mode, which every driver has.
 */
#define PORTCULLIS_MODE_GENERIC 4

/**
 * Packets that no live worker takes are dropped (the default).
 */
#define PORTCULLIS_FAIL_CLOSED 0

/**
 * Packets that no live worker takes go to the host's network stack.
 */
#define PORTCULLIS_FAIL_OPEN 1

/**
 * Huge pages if there are enough.
 */
#define PORTCULLIS_HUGE_PAGES_PREFER 1

/**
 * Huge pages or an error.
 */
#define PORTCULLIS_HUGE_PAGES_REQUIRE 2

/**
 * [`portcullis_firewall_config::nice`]: a nice value of 0, that of ordinary threads.
 */
#define PORTCULLIS_NICE_ORDINARY 20

/**
 * Packets can flow.
 */
#define PORTCULLIS_PORT_UP 1

/**
 * The interface was taken down, or its other end is.
 */
#define PORTCULLIS_PORT_DOWN 2

/**
 * The interface is not there any more, or in another network namespace. It does not come back: one of
 * the same name is another one.
 */
#define PORTCULLIS_PORT_GONE 3

/**
 * Success.
 */
#define PORTCULLIS_OK 0

/**
 * A pointer that must not be NULL is NULL.
 */
#define PORTCULLIS_NULL 1

/**
 * Not a handle, a handle of another type, or one that was freed.
 */
#define PORTCULLIS_BAD_HANDLE 2

/**
 * An earlier call on this handle failed inside the library; free it.
 */
#define PORTCULLIS_POISONED 3

/**
 * Another thread is in a call on this judge.
 */
#define PORTCULLIS_BUSY 4

/**
 * A `struct_size` that no version of the library knows, or bytes set that this version does not
 * know.
 */
#define PORTCULLIS_BAD_SIZE 5

/**
 * A number that means nothing: an enumeration, a flag, a count.
 */
#define PORTCULLIS_BAD_VALUE 6

/**
 * Text that is not UTF-8.
 */
#define PORTCULLIS_BAD_UTF8 7

/**
 * The buffer is too small; the size needed was written.
 */
#define PORTCULLIS_TOO_SMALL 8

/**
 * Documents were refused; the error text has a line `file:line:col: error: ...` for each finding.
 */
#define PORTCULLIS_REFUSED 100

/**
 * The cluster contradicts itself, or the policies are too large.
 */
#define PORTCULLIS_POLICY 101

/**
 * An address or prefix that the address table does not take.
 */
#define PORTCULLIS_PREFIX 102

/**
 * No policy declares a set of this name.
 */
#define PORTCULLIS_NO_SUCH_SET 103

/**
 * The address table is full.
 */
#define PORTCULLIS_TABLE_FULL 104

/**
 * The compiled policies are not what the documents say, and were not put in force: a mistake of this
 * library, please report it. The handle is as good as before.
 */
#define PORTCULLIS_PROOF 105

/**
 * Nothing is in force in this zone.
 */
#define PORTCULLIS_NO_SUCH_ZONE 106

/**
 * Not a file of connections, one of another version, or a damaged one; the error text says which.
 */
#define PORTCULLIS_BAD_FILE 107

/**
 * The system refused memory, a thread or a descriptor.
 */
#define PORTCULLIS_SYSTEM 200

/**
 * An interface cannot be used; the error text says why and what to do.
 */
#define PORTCULLIS_INTERFACE 201

/**
 * This library was built without AF_XDP.
 */
#define PORTCULLIS_NO_XDP 202

/**
 * No wire of the firewall has this name.
 */
#define PORTCULLIS_NO_SUCH_WIRE 203

/**
 * A mistake inside the library. The handle is poisoned: everything on it fails from now on.
 */
#define PORTCULLIS_INTERNAL 300

/**
 * Let it through.
 */
#define PORTCULLIS_ALLOW 0

/**
 * Drop it silently.
 */
#define PORTCULLIS_DENY 1

/**
 * Drop it and tell the sender.
 */
#define PORTCULLIS_REJECT 2

/**
 * `reason` of what may pass.
 */
#define PORTCULLIS_NO_REASON 255

/**
 * `rule` of what no rule decided.
 */
#define PORTCULLIS_NO_RULE 4294967295

/**
 * A capture of packets that the workers of an engine's firewalls receive. Calls on it may come from
 * any threads.
 */
typedef struct portcullis_capture portcullis_capture;

/**
 * Policies over a cluster, and connections. Calls on one engine may come from any threads at once;
 * several engines know nothing of each other. Before something is applied every IP packet is dropped.
 */
typedef struct portcullis_engine portcullis_engine;

/**
 * A running firewall. Calls on it may come from any threads.
 */
typedef struct portcullis_firewall portcullis_firewall;

/**
 * Judges packets and flows for one thread: make one for each. All judges of an engine share its
 * connections and policies.
 */
typedef struct portcullis_judge portcullis_judge;

/**
 * Policies that are made in code, to be put in force by `portcullis_engine_apply_policies`: tiers in the
 * order in which they decide, in each tier policies in that order, in each policy rules. The decision
 * for one direction of a flow: walk the tiers; skip one none of whose policies applies to the endpoint
 * in this direction; else the first rule that matches decides. Allow and deny end, pass goes on with
 * the next tier, log with the next rule; at the end of a tier its default counts. After the last tier:
 * allow. Calls on it may come from any threads, and wait for each other.
 */
typedef struct portcullis_policies portcullis_policies;

/**
 * Makes flow records of an engine's events: one when a connection starts, when another rule decides of
 * it, while it lasts and when it ends; denials are summed up. Calls on it may come from any threads,
 * and wait for each other.
 */
typedef struct portcullis_recorder portcullis_recorder;

/**
 * A tunnel whose packets are judged by what they carry. This one never grows.
 */
typedef struct portcullis_tunnel {
  /**
   * `PORTCULLIS_TUNNEL_...`.
   */
  uint8_t kind;
  /**
   * 1: all networks of the port that are not named one by one, and `vni` is 0.
   */
  uint8_t all_networks;
  /**
   * The UDP port at which it ends; 0 is IANA's, 4789 or 6081. 0 for `PORTCULLIS_TUNNEL_IP`.
   */
  uint16_t port;
  /**
   * The identifier of the network, below 2^24. 0 for `PORTCULLIS_TUNNEL_IP`.
   */
  uint32_t vni;
  /**
   * The address space that it leads to, with a cluster and policies of its own
   * (`portcullis_zone_apply`); 0 is that of packets outside of tunnels.
   */
  uint16_t zone;
} portcullis_tunnel;

/**
 * Settings of an engine. Set all of it to zero, then `struct_size` to `sizeof`; 0 is the default of
 * every field.
 */
typedef struct portcullis_engine_config {
  /**
   * `sizeof(portcullis_engine_config)`.
   */
  size_t struct_size;
  /**
   * Most connections at a time: at most 2^31.
   */
  size_t connections;
  /**
   * Events that wait at most, for each worker and judge: at most 2^24.
   */
  size_t event_capacity;
  /**
   * `PORTCULLIS_KEEP`, `PORTCULLIS_REJUDGE` or `PORTCULLIS_CUT`.
   */
  uint8_t on_policy_change;
  /**
   * 1: ARP is dropped.
   */
  uint8_t drop_arp;
  /**
   * 1: IPv6 neighbour discovery is judged like everything else.
   */
  uint8_t judge_neighbour_discovery;
  /**
   * 1: frames that are neither IP nor ARP pass.
   */
  uint8_t pass_non_ip;
  /**
   * 1: connections that are older than the engine may be picked up if the policy allows them.
   */
  uint8_t pick_up;
  /**
   * 1: programs are proved equal to the policies before they are published; 2: only those of changed
   * policies, not those of changed endpoints.
   */
  uint8_t prove;
  /**
   * 1: if the table is full the oldest idle connection makes room for a new one, which is refused
   * else.
   */
  uint8_t evict_when_full;
  /**
   * 1: checksums that a veth left unfinished are not completed.
   */
  uint8_t leave_checksums;
  /**
   * Connections of each identity at a time, at most; 0 is no limit.
   */
  uint32_t identity_connections;
  /**
   * Of each identity, TCP connections at a time whose handshake is not finished.
   */
  uint32_t identity_half_open;
  /**
   * New connections of each identity a second: at most 4 million.
   */
  uint32_t identity_new_per_second;
  /**
   * New connections of each identity that may be saved up; a second's worth unless set.
   */
  uint32_t identity_new_burst;
  /**
   * Answers to senders of rejected packets a second, of each worker and judge; 1000 unless set.
   */
  uint32_t rejects_per_second;
  /**
   * Answers that may be saved up; 200 unless set.
   */
  uint32_t reject_burst;
  /**
   * Milliseconds after which an idle TCP connection is forgotten; 2 h 4 min unless set.
   */
  uint32_t tcp_timeout_ms;
  /**
   * The same of UDP that goes both ways; 3 min unless set.
   */
  uint32_t udp_timeout_ms;
  /**
   * Milliseconds for which it is remembered who had which identity, so that events read late carry
   * the names of their time; 5 min unless set.
   */
  uint64_t retention_ms;
  /**
   * Dropped packets a second that are told one by one, of each worker and of the same identities,
   * reason, rule and protocol; those beyond are told together, so that a flood costs a few events a
   * second. 0: all are told one by one.
   */
  uint32_t denied_burst;
  /**
   * 1: packets that policies deny are rejected: their senders are told, by a TCP reset or by ICMP
   * "administratively prohibited", as often as `rejects_per_second` allows. Judges hand these answers
   * out (`portcullis_judge_frames`), firewalls send them.
   */
  uint8_t reject_denied;
  /**
   * 1: the clock of the engine stands still until `portcullis_engine_set_time` moves it. For replays
   * and simulations.
   */
  uint8_t virtual_clock;
  /**
   * Zeros.
   */
  uint8_t reserved[2];
  /**
   * TCP connections at a time whose handshake is not finished, of all identities together.
   */
  uint32_t half_open_in_all;
  /**
   * Milliseconds after which a TCP SYN without answer is forgotten; 20 s unless set, as all below.
   */
  uint32_t tcp_syn_sent_timeout_ms;
  /**
   * A SYN+ACK without ACK; 30 s.
   */
  uint32_t tcp_syn_received_timeout_ms;
  /**
   * TCP of which one end has closed; 4 min.
   */
  uint32_t tcp_closing_timeout_ms;
  /**
   * TCP of which both ends have closed; 30 s.
   */
  uint32_t tcp_last_ack_timeout_ms;
  /**
   * TCP that was closed in order; 60 s.
   */
  uint32_t tcp_time_wait_timeout_ms;
  /**
   * TCP that was reset; 5 s.
   */
  uint32_t tcp_closed_timeout_ms;
  /**
   * UDP without answer; 30 s.
   */
  uint32_t udp_unanswered_timeout_ms;
  /**
   * SCTP that is open and silent; 2 h 4 min.
   */
  uint32_t sctp_timeout_ms;
  /**
   * SCTP whose handshake is not finished; 30 s.
   */
  uint32_t sctp_opening_timeout_ms;
  /**
   * SCTP that is being shut down; 30 s.
   */
  uint32_t sctp_closing_timeout_ms;
  /**
   * SCTP that was aborted or shut down; 5 s.
   */
  uint32_t sctp_closed_timeout_ms;
  /**
   * ICMP queries; 30 s.
   */
  uint32_t icmp_timeout_ms;
  /**
   * Other protocols; 10 min.
   */
  uint32_t other_timeout_ms;
  /**
   * Packets in pieces at a time; 4096 unless set, at most a million.
   */
  uint32_t fragmented_packets;
  /**
   * Of those, from one source address; 256 unless set.
   */
  uint32_t fragmented_packets_per_source;
  /**
   * Bytes of fragments that wait for their first; 1 MiB unless set.
   */
  uint32_t fragment_bytes;
  /**
   * Fragments of one packet; 64 unless set.
   */
  uint32_t fragments_per_packet;
  /**
   * Milliseconds after which a packet in pieces is forgotten; 15 s unless set.
   */
  uint32_t fragment_timeout_ms;
  /**
   * Threads of a proof at most; as many as there are processors, but at most four, unless set.
   */
  uint32_t proof_threads;
  /**
   * Bytes of a compiled program at most; 1 GiB unless set.
   */
  uint64_t program_bytes;
  /**
   * Cells into which rules between two classes may cut one protocol; 2^22 unless set.
   */
  uint64_t program_cells;
  /**
   * Tunnels whose packets are judged by what they carry.
   */
  const struct portcullis_tunnel *tunnels;
  /**
   * How many.
   */
  size_t tunnel_count;
} portcullis_engine_config;

/**
 * A text with documents in it.
 */
typedef struct portcullis_text {
  /**
   * The name that errors carry where a file name would stand, NUL-terminated UTF-8.
   */
  const char *name;
  /**
   * The documents: YAML or JSON, UTF-8, several separated by `---`. Need not end with NUL.
   */
  const uint8_t *data;
  /**
   * Bytes of `data`.
   */
  size_t len;
} portcullis_text;

/**
 * What a change put in force. Set `struct_size` first.
 */
typedef struct portcullis_applied {
  /**
   * `sizeof(portcullis_applied)`.
   */
  size_t struct_size;
  /**
   * Number of the set in force, from 1; changes of single endpoints do not count.
   */
  uint64_t generation;
  /**
   * Policies in it.
   */
  uint64_t policies;
  /**
   * Endpoints it knows.
   */
  uint64_t endpoints;
  /**
   * Identities they make, those of CIDRs included.
   */
  uint64_t identities;
} portcullis_applied;

/**
 * A label. NUL-terminated UTF-8.
 */
typedef struct portcullis_label {
  /**
   * Its key.
   */
  const char *key;
  /**
   * Its value.
   */
  const char *value;
} portcullis_label;

/**
 * A port of an endpoint that rules may name.
 */
typedef struct portcullis_named_port {
  /**
   * Its name, NUL-terminated UTF-8.
   */
  const char *name;
  /**
   * IP protocol: 6 (TCP), 17 (UDP), 132 (SCTP).
   */
  uint8_t protocol;
  /**
   * Its number.
   */
  uint16_t port;
} portcullis_named_port;

/**
 * An IP address.
 */
typedef struct portcullis_address {
  /**
   * 4 or 6.
   */
  uint8_t family;
  /**
   * In network byte order; an IPv4 address is the first four bytes, the rest is ignored.
   */
  uint8_t bytes[16];
} portcullis_address;

/**
 * An endpoint: a pod, or whatever else owns addresses. It grows at the end: functions that take it
 * take its size too. Set all of it to zero first.
 */
typedef struct portcullis_endpoint {
  /**
   * The namespace, NUL-terminated UTF-8.
   */
  const char *namespace_name;
  /**
   * The name, unique within the namespace.
   */
  const char *name;
  /**
   * The service account; NULL is `default`.
   */
  const char *service_account;
  /**
   * The node it runs on; NULL if unknown.
   */
  const char *node;
  /**
   * Labels; of two with one key the later counts.
   */
  const struct portcullis_label *labels;
  /**
   * How many.
   */
  size_t label_count;
  /**
   * Ports that rules may name.
   */
  const struct portcullis_named_port *named_ports;
  /**
   * How many.
   */
  size_t named_port_count;
  /**
   * Addresses, any number of each family.
   */
  const struct portcullis_address *addresses;
  /**
   * How many.
   */
  size_t address_count;
  /**
   * 1 if it shares its node's network: policies then do not apply to it.
   */
  uint8_t host_network;
} portcullis_endpoint;

/**
 * Namespace and name of an endpoint, NUL-terminated UTF-8.
 */
typedef struct portcullis_endpoint_name {
  /**
   * The namespace.
   */
  const char *namespace_name;
  /**
   * The name, unique within the namespace.
   */
  const char *name;
} portcullis_endpoint_name;

/**
 * A prefix; bits beyond its length are ignored.
 */
typedef struct portcullis_prefix {
  /**
   * An address within.
   */
  struct portcullis_address address;
  /**
   * Bits: 0 to 32, or to 128.
   */
  uint8_t length;
} portcullis_prefix;

/**
 * A new connection, for judging without packets.
 */
typedef struct portcullis_flow {
  /**
   * Who opens it.
   */
  struct portcullis_address source;
  /**
   * To whom; of the same family.
   */
  struct portcullis_address destination;
  /**
   * IP protocol number.
   */
  uint8_t protocol;
  /**
   * Source port, host byte order; for ICMP the type.
   */
  uint16_t source_port;
  /**
   * Destination port; for ICMP the code.
   */
  uint16_t destination_port;
} portcullis_flow;

/**
 * An expression over one end of a flow: who or where it is. "Pod" is a live pod with its own address;
 * host-networked pods are their node's address. Set all of it to zero first: fields that its kind does
 * not use must stay zero. This one never grows.
 */
typedef struct portcullis_match {
  /**
   * `PORTCULLIS_MATCH_...`; 0 is refused.
   */
  uint8_t kind;
  /**
   * Over labels, in Calico's language, such as `app == 'web' && tier in {'a', 'b'}`, or `all()`.
   * NUL-terminated UTF-8. Or NULL, and `labels`.
   */
  const char *selector;
  /**
   * Instead of `selector`: all of these labels with these values, whatever is in them.
   */
  const struct portcullis_label *labels;
  /**
   * How many.
   */
  size_t label_count;
  /**
   * NUL-terminated UTF-8.
   */
  const char *name;
  /**
   * Of `PORTCULLIS_MATCH_CIDR`.
   */
  struct portcullis_prefix prefix;
  /**
   * Of `PORTCULLIS_MATCH_SET`: the number that `portcullis_policies_add_set` answered.
   */
  uint32_t set;
  /**
   * Expressions that this one is made of, at most 64 levels.
   */
  const struct portcullis_match *parts;
  /**
   * How many.
   */
  size_t part_count;
} portcullis_match;

/**
 * Where something was written, for `portcullis_engine_explain` and records. All zero: made in code. This
 * one never grows.
 */
typedef struct portcullis_origin {
  /**
   * The file, NUL-terminated UTF-8; NULL is `<code>`.
   */
  const char *file;
  /**
   * Line, from 1.
   */
  uint32_t line;
  /**
   * Column in characters, from 1.
   */
  uint32_t column;
} portcullis_origin;

/**
 * A policy without its rules. Set all of it to zero, then `struct_size` to `sizeof`. Texts are
 * NUL-terminated UTF-8.
 */
typedef struct portcullis_policy {
  /**
   * `sizeof(portcullis_policy)`.
   */
  size_t struct_size;
  /**
   * The tier that it is the last of: the number that `portcullis_policies_add_tier` answered.
   */
  uint32_t tier;
  /**
   * `PORTCULLIS_KIND_...`: how it is named. It means nothing else: what a policy of a namespace
   * selects and names must say the namespace itself (`PORTCULLIS_MATCH_NAMESPACE`).
   */
  uint8_t kind;
  /**
   * 1: it decides nothing, and is told of.
   */
  uint8_t staged;
  /**
   * Directions that it says something about, `PORTCULLIS_INGRESS` plus `PORTCULLIS_EGRESS`: what none
   * of its rules decides there is left to the others and to the end of its tier.
   */
  uint8_t directions;
  /**
   * The namespace in its name; NULL: none.
   */
  const char *namespace_name;
  /**
   * Its name.
   */
  const char *name;
  /**
   * The endpoints that it applies to: pods only, never host-networked ones.
   */
  const struct portcullis_match *subject;
  /**
   * Where it was written.
   */
  struct portcullis_origin origin;
} portcullis_policy;

/**
 * ICMP or ICMPv6 messages. This one never grows.
 */
typedef struct portcullis_icmp {
  /**
   * 0: says nothing; else the sum of `PORTCULLIS_ICMP_ANY` and of what counts.
   */
  uint8_t given;
  /**
   * Type.
   */
  uint8_t icmp_type;
  /**
   * Code.
   */
  uint8_t icmp_code;
} portcullis_icmp;

/**
 * Ports from the first to the last, or a port by name. This one never grows.
 */
typedef struct portcullis_port_range {
  /**
   * NULL, or the name of a container port (of the rule's protocol) on the pod at that end;
   * NUL-terminated UTF-8.
   */
  const char *name;
  /**
   * The first port; 0 with a name.
   */
  uint16_t first;
  /**
   * The last port, itself included; 0 with a name.
   */
  uint16_t last;
} portcullis_port_range;

/**
 * Which traffic a rule means; all parts must hold. Set all of it to zero first: that is all traffic.
 * This one never grows.
 */
typedef struct portcullis_traffic {
  /**
   * 4, 6, or 0 for both.
   */
  uint8_t ip_version;
  /**
   * `PORTCULLIS_PROTOCOL_...`: what `protocol` means.
   */
  uint8_t protocol_match;
  /**
   * IP protocol number; 0 with `PORTCULLIS_PROTOCOL_ANY`.
   */
  uint8_t protocol;
  /**
   * Messages that match.
   */
  struct portcullis_icmp icmp;
  /**
   * Messages that do not match.
   */
  struct portcullis_icmp not_icmp;
  /**
   * Source ports that match; none: all, and protocols without ports.
   */
  const struct portcullis_port_range *source_ports;
  /**
   * How many.
   */
  size_t source_port_count;
  /**
   * Source ports that do not match.
   */
  const struct portcullis_port_range *not_source_ports;
  /**
   * How many.
   */
  size_t not_source_port_count;
  /**
   * Destination ports that match; none: all, and protocols without ports.
   */
  const struct portcullis_port_range *destination_ports;
  /**
   * How many.
   */
  size_t destination_port_count;
  /**
   * Destination ports that do not match.
   */
  const struct portcullis_port_range *not_destination_ports;
  /**
   * How many.
   */
  size_t not_destination_port_count;
} portcullis_traffic;

/**
 * A rule: it matches a flow when source, destination and any of its traffic match. Set all of it to
 * zero, then `struct_size` to `sizeof`.
 */
typedef struct portcullis_rule {
  /**
   * `sizeof(portcullis_rule)`.
   */
  size_t struct_size;
  /**
   * The policy that it is the last of: the number that `portcullis_policies_add_policy` answered.
   */
  uint32_t policy;
  /**
   * `PORTCULLIS_INGRESS` or `PORTCULLIS_EGRESS`, one of the policy's.
   */
  uint8_t direction;
  /**
   * `PORTCULLIS_ACTION_...`; 0 is refused.
   */
  uint8_t action;
  /**
   * 1: whatever is sent, and there is no `traffic`.
   */
  uint8_t all_traffic;
  /**
   * A name of its own, NUL-terminated UTF-8; NULL: none.
   */
  const char *name;
  /**
   * Who sends the first packet of the flow.
   */
  const struct portcullis_match *source;
  /**
   * Who receives it.
   */
  const struct portcullis_match *destination;
  /**
   * What is sent: any of these.
   */
  const struct portcullis_traffic *traffic;
  /**
   * How many.
   */
  size_t traffic_count;
  /**
   * Where it was written.
   */
  struct portcullis_origin origin;
} portcullis_rule;

/**
 * A namespace and its labels. This one never grows.
 */
typedef struct portcullis_namespace {
  /**
   * Its name, NUL-terminated UTF-8.
   */
  const char *name;
  /**
   * Its labels; `kubernetes.io/metadata.name` is set to its name.
   */
  const struct portcullis_label *labels;
  /**
   * How many.
   */
  size_t label_count;
} portcullis_namespace;

/**
 * A service account and its labels. This one never grows.
 */
typedef struct portcullis_service_account {
  /**
   * The namespace that it belongs to, NUL-terminated UTF-8.
   */
  const char *namespace_name;
  /**
   * Its name, NUL-terminated UTF-8.
   */
  const char *name;
  /**
   * Its labels.
   */
  const struct portcullis_label *labels;
  /**
   * How many.
   */
  size_t label_count;
} portcullis_service_account;

/**
 * A node, its labels and its own addresses. This one never grows.
 */
typedef struct portcullis_node {
  /**
   * Its name, NUL-terminated UTF-8.
   */
  const char *name;
  /**
   * Its labels.
   */
  const struct portcullis_label *labels;
  /**
   * How many.
   */
  size_t label_count;
  /**
   * Its addresses.
   */
  const struct portcullis_address *addresses;
  /**
   * How many.
   */
  size_t address_count;
} portcullis_node;

/**
 * A cluster. Set all of it to zero, then `struct_size` to `sizeof` and `endpoint_size` to
 * `sizeof(portcullis_endpoint)`. The order of the lists means nothing.
 */
typedef struct portcullis_cluster {
  /**
   * `sizeof(portcullis_cluster)`.
   */
  size_t struct_size;
  /**
   * `sizeof(portcullis_endpoint)`.
   */
  size_t endpoint_size;
  /**
   * Live endpoints.
   */
  const struct portcullis_endpoint *endpoints;
  /**
   * How many.
   */
  size_t endpoint_count;
  /**
   * Namespaces; one that only endpoints mention has no other labels than its name.
   */
  const struct portcullis_namespace *namespaces;
  /**
   * How many.
   */
  size_t namespace_count;
  /**
   * Service accounts; one that only endpoints mention has no labels.
   */
  const struct portcullis_service_account *service_accounts;
  /**
   * How many.
   */
  size_t service_account_count;
  /**
   * Nodes.
   */
  const struct portcullis_node *nodes;
  /**
   * How many.
   */
  size_t node_count;
} portcullis_cluster;

/**
 * How many packets or bytes may pass: a token bucket. This one never grows.
 */
typedef struct portcullis_rate {
  /**
   * `PORTCULLIS_PACKETS` or `PORTCULLIS_BYTES`.
   */
  uint8_t unit;
  /**
   * So many a second, on average; 0 lets nothing pass.
   */
  uint64_t per_second;
  /**
   * So many at once after a silence; 0: as many as in a second. Bytes: at least those of the longest
   * packet, or that never passes.
   */
  uint64_t burst;
} portcullis_rate;

/**
 * A rule, or all rules of a policy, as people name them. This one never grows.
 */
typedef struct portcullis_rule_name {
  /**
   * The policy as events name it, such as `NetworkPolicy/shop/web`, NUL-terminated UTF-8.
   */
  const char *policy;
  /**
   * `PORTCULLIS_INGRESS` or `PORTCULLIS_EGRESS`: its rules of one direction; 0: of both.
   */
  uint8_t direction;
  /**
   * 1: only the rule at `index`; 0: all, and the end of the policy's tier where that decides.
   */
  uint8_t one;
  /**
   * The place of the rule in its direction, from 0; 0 unless `one` is set.
   */
  uint32_t index;
} portcullis_rule_name;

/**
 * The rate of a rule. It grows at the end: `portcullis_engine_limit_rates` takes its size.
 */
typedef struct portcullis_rule_rate {
  /**
   * Whose it is. Each rule that the name means has a bucket of its own.
   */
  struct portcullis_rule_name rule;
  /**
   * How many packets of the connections that it allowed may pass, both ways.
   */
  struct portcullis_rate rate;
} portcullis_rule_rate;

/**
 * Which packets are copied. Set all of it to zero, then `struct_size` to `sizeof`.
 */
typedef struct portcullis_mirrored {
  /**
   * `sizeof(portcullis_mirrored)`.
   */
  size_t struct_size;
  /**
   * Those that one of these rules decided; none: any rule, or no rule.
   */
  const struct portcullis_rule_name *rules;
  /**
   * How many.
   */
  size_t rule_count;
  /**
   * Those with these verdicts: the sum of 1 for `PORTCULLIS_ALLOW`, 2 for `PORTCULLIS_DENY` and 4 for
   * `PORTCULLIS_REJECT`; 0 is any.
   */
  uint8_t verdicts;
} portcullis_mirrored;

/**
 * A packet to judge.
 */
typedef struct portcullis_packet {
  /**
   * The frame from its Ethernet header on: all of it, or as much as was captured.
   */
  const uint8_t *data;
  /**
   * Bytes of `data`.
   */
  size_t len;
  /**
   * Bytes that the frame had on the wire; 0 is `len`.
   */
  size_t wire_len;
} portcullis_packet;

/**
 * What becomes of a packet or a flow, and why. 16 bytes; this one never grows.
 */
typedef struct portcullis_judgement {
  /**
   * `PORTCULLIS_ALLOW`, `PORTCULLIS_DENY` or `PORTCULLIS_REJECT`.
   */
  uint8_t verdict;
  /**
   * Why it does not pass: see `portcullis_reason_name`; else `PORTCULLIS_NO_REASON`.
   */
  uint8_t reason;
  /**
   * 0: nothing to do with connections; 1: opens one, or tried to; 2: belongs to a known one.
   */
  uint8_t state;
  /**
   * Zero.
   */
  uint8_t reserved;
  /**
   * The rule that decided, for `portcullis_engine_rule`; else `PORTCULLIS_NO_RULE`.
   */
  uint32_t rule;
  /**
   * Identity of who opened the connection.
   */
  uint32_t source;
  /**
   * Identity of the other end.
   */
  uint32_t destination;
} portcullis_judgement;

/**
 * A frame to send. It grows at the end: `portcullis_judge_frames` takes its size.
 */
typedef struct portcullis_frame {
  /**
   * The frame from its Ethernet header on, in the caller's buffer of bytes.
   */
  const uint8_t *data;
  /**
   * Bytes of `data`.
   */
  size_t len;
  /**
   * Of an answer: the number of the packet in the call that judged it.
   */
  size_t packet;
  /**
   * `PORTCULLIS_FRAME_RELEASED` or `PORTCULLIS_FRAME_ANSWER`.
   */
  uint8_t kind;
} portcullis_frame;

/**
 * Which packets a capture wants; all conditions must hold. Set all of it to zero, then `struct_size`
 * to `sizeof`: then it is all of every packet.
 */
typedef struct portcullis_capture_filter {
  /**
   * `sizeof(portcullis_capture_filter)`.
   */
  size_t struct_size;
  /**
   * Only packets dropped for one of these reasons.
   */
  const uint8_t *reasons;
  /**
   * How many; 0 is any, and packets that passed.
   */
  size_t reason_count;
  /**
   * Only IP packets from or to one of these addresses.
   */
  const struct portcullis_address *addresses;
  /**
   * How many; 0 is any.
   */
  size_t address_count;
  /**
   * Bytes of each packet at most, from the Ethernet header on; 0 is as many as can be: 9216.
   */
  uint32_t snap;
  /**
   * Only packets with these verdicts: the sum of 1 for `PORTCULLIS_ALLOW`, 2 for
   * `PORTCULLIS_DENY` and 4 for `PORTCULLIS_REJECT`; 0 is any.
   */
  uint8_t verdicts;
} portcullis_capture_filter;

/**
 * A packet that was copied. It grows at the end: `portcullis_capture_packets` takes its size.
 */
typedef struct portcullis_captured {
  /**
   * When its batch was received, in nanoseconds since 1970-01-01 UTC.
   */
  uint64_t time;
  /**
   * Its first bytes, from the Ethernet header on, in the caller's buffer of bytes.
   */
  const uint8_t *data;
  /**
   * Bytes of `data`.
   */
  size_t len;
  /**
   * Bytes of the whole frame.
   */
  size_t wire_len;
  /**
   * What became of it, and why.
   */
  struct portcullis_judgement judgement;
  /**
   * The interface that received it, NUL-terminated.
   */
  char interface_name[16];
} portcullis_captured;

/**
 * Something that happened to a flow. It grows at the end: `portcullis_engine_events` takes its size.
 * Texts are NUL-terminated UTF-8 in the caller's text buffer; NULL if there is nothing to say.
 */
typedef struct portcullis_event {
  /**
   * When, in nanoseconds since 1970-01-01 UTC.
   */
  uint64_t time;
  /**
   * `PORTCULLIS_EVENT_...`; numbers that the caller does not know may come in later versions.
   */
  uint8_t kind;
  /**
   * `PORTCULLIS_ALLOW`, `PORTCULLIS_DENY` or `PORTCULLIS_REJECT`.
   */
  uint8_t verdict;
  /**
   * Why it may not pass, or was cut; else `PORTCULLIS_NO_REASON`.
   */
  uint8_t reason;
  /**
   * IP protocol number.
   */
  uint8_t protocol;
  /**
   * 1 if a rule asked for this record.
   */
  uint8_t logged;
  /**
   * 1 if some text did not fit into the buffer and is NULL.
   */
  uint8_t truncated;
  /**
   * Port of the source, host byte order; 0 where the protocol has none.
   */
  uint16_t source_port;
  /**
   * Port of the destination.
   */
  uint16_t destination_port;
  /**
   * Who opened the flow.
   */
  struct portcullis_address source;
  /**
   * To whom.
   */
  struct portcullis_address destination;
  /**
   * Identity of the source at that time.
   */
  uint32_t source_identity;
  /**
   * Identity of the destination at that time.
   */
  uint32_t destination_identity;
  /**
   * Of a connection that ended: how long it lasted, in nanoseconds.
   */
  uint64_t duration;
  /**
   * Of a connection that ended: packets from the opener, and back; else the first is how many
   * packets this tells of: one, unless denied packets are told together (`denied_burst`).
   */
  uint64_t packets[2];
  /**
   * Bytes of these IP packets: from the opener, and back.
   */
  uint64_t bytes[2];
  /**
   * The policy that decided, as `Kind/namespace/name`, or `default`.
   */
  const char *policy;
  /**
   * Where the rule that decided was written, as `file:line:column`.
   */
  const char *origin;
  /**
   * The endpoint that owned the source address at that time, as `namespace/name`.
   */
  const char *source_name;
  /**
   * The same of the destination.
   */
  const char *destination_name;
  /**
   * The labels of the source at that time, as `key=value,key=value`.
   */
  const char *source_labels;
  /**
   * The same of the destination.
   */
  const char *destination_labels;
  /**
   * When the first packet of it was seen, or the connection began, as `time`.
   */
  uint64_t since;
  /**
   * When a packet of it was seen last, as `time`.
   */
  uint64_t last_seen;
  /**
   * The address space: 0 unless a tunnel has one of its own.
   */
  uint16_t zone;
  /**
   * ICMP or ICMPv6 type; 0 for other protocols.
   */
  uint8_t icmp_type;
  /**
   * ICMP or ICMPv6 code; 0 for other protocols, and of a query that ended.
   */
  uint8_t icmp_code;
  /**
   * TCP flags as in the header: of the packet, or all that the connection saw.
   */
  uint8_t tcp_flags;
  /**
   * Of a connection that ended: how, `PORTCULLIS_CLOSE_...`; else 0.
   */
  uint8_t close;
  /**
   * What staged policies say where they say otherwise: 1 it could pass, 2 it could not; else 0.
   */
  uint8_t staged;
  /**
   * Zero.
   */
  uint8_t reserved;
  /**
   * The staged policy that would decide.
   */
  const char *staged_policy;
  /**
   * Where the staged rule that would decide was written, as `file:line:column`.
   */
  const char *staged_origin;
} portcullis_event;

/**
 * What is recorded of flows that some policies decided. This one never grows.
 */
typedef struct portcullis_policy_keep {
  /**
   * The policies as `Kind/namespace/name`, each part a text or `*`; `default` is what no policy
   * decided. NUL-terminated.
   */
  const char *policies;
  /**
   * What is recorded, as `keep` of the settings.
   */
  const char *keep;
} portcullis_policy_keep;

/**
 * Settings of a recorder. Set all of it to zero, then `struct_size` to `sizeof`; 0 is the default of
 * every field.
 */
typedef struct portcullis_recorder_config {
  /**
   * `sizeof(portcullis_recorder_config)`.
   */
  size_t struct_size;
  /**
   * What is recorded, NUL-terminated: `none`, `denied`, `all`, or `1/N` for what is denied and one
   * connection in N. NULL is `all`.
   */
  const char *keep;
  /**
   * How often a connection that lasts is recorded again, in milliseconds, 1000 at least; 60000
   * unless set, and never if it is the highest number.
   */
  uint32_t update_ms;
  /**
   * How long denials are summed up before they are recorded, in milliseconds; 1000 unless set.
   */
  uint32_t denied_ms;
  /**
   * Different denials that are kept apart within that time, about 600 bytes each; 4096 unless set.
   */
  uint32_t denied_kinds;
  /**
   * Records that wait at most, about 1 KiB each; 65536 unless set. What does not fit is counted.
   */
  uint32_t capacity;
  /**
   * `PORTCULLIS_FORM_...`.
   */
  uint32_t form;
  /**
   * Zero.
   */
  uint32_t reserved;
  /**
   * The name of this node in records of `PORTCULLIS_FORM_HUBBLE`, NUL-terminated; NULL is none.
   */
  const char *node;
  /**
   * What is recorded of flows that some policies decided; the first that fits counts, and `keep` if
   * none does.
   */
  const struct portcullis_policy_keep *policies;
  /**
   * How many.
   */
  size_t policy_count;
} portcullis_recorder_config;

/**
 * What a recorder did since the start. All counts are exact: of each class of things that happened, those
 * read and those `lost` are how many there were; of those read some are `sampled_out` or `left_out`, and of
 * the others there are records. Set `struct_size` first.
 */
typedef struct portcullis_recorded {
  /**
   * `sizeof(portcullis_recorded)`.
   */
  size_t struct_size;
  /**
   * Connections whose start was read.
   */
  uint64_t started;
  /**
   * Connections whose end was read.
   */
  uint64_t ended;
  /**
   * Packets of which it was read that they were denied.
   */
  uint64_t denied_packets;
  /**
   * Other things read: connections that changed, packets that stand alone.
   */
  uint64_t others;
  /**
   * Things lost before they could be read: starts, denied packets, ends, changes, packets alone.
   */
  uint64_t lost[5];
  /**
   * Things (denials: packets) that are of no record because only a sample is recorded.
   */
  uint64_t sampled_out;
  /**
   * Things (denials: packets) that are of no record because `keep` leaves them out.
   */
  uint64_t left_out;
  /**
   * Records of starts, ends, changes and packets that stand alone: one each.
   */
  uint64_t records;
  /**
   * Records of connections that last.
   */
  uint64_t updates;
  /**
   * Records of denials, each of which sums up some.
   */
  uint64_t denied_records;
  /**
   * Denied packets in those.
   */
  uint64_t denied_recorded;
  /**
   * Denied packets that wait to be recorded.
   */
  uint64_t denied_waiting;
  /**
   * Records that there was no room for (`capacity`).
   */
  uint64_t records_lost;
} portcullis_recorded;

/**
 * What was read from a file of connections. Set `struct_size` first.
 */
typedef struct portcullis_restored {
  /**
   * `sizeof(portcullis_restored)`.
   */
  size_t struct_size;
  /**
   * Connections that are in the table now.
   */
  uint32_t restored;
  /**
   * Connections left out: the table is full or knows them already, or they were silent for days.
   */
  uint32_t left_out;
  /**
   * Milliseconds since they were saved, by the wall clock.
   */
  uint64_t age_ms;
} portcullis_restored;

/**
 * A rule in parts. Set `struct_size` first. Texts are NUL-terminated UTF-8 in the caller's text buffer.
 */
typedef struct portcullis_rule_info {
  /**
   * `sizeof(portcullis_rule_info)`.
   */
  size_t struct_size;
  /**
   * The policy, as `Kind/namespace/name`.
   */
  const char *policy;
  /**
   * The tier that it is in.
   */
  const char *tier;
  /**
   * The rule's own name; NULL if it has none.
   */
  const char *name;
  /**
   * The file where it was written; for the end of a tier, where the policy was.
   */
  const char *file;
  /**
   * The line, from 1.
   */
  uint32_t line;
  /**
   * The column, from 1.
   */
  uint32_t column;
  /**
   * Its place among the policy's rules of its direction, from 0; meaningless for the end of a tier.
   */
  uint32_t index;
  /**
   * `PORTCULLIS_INGRESS` or `PORTCULLIS_EGRESS`.
   */
  uint8_t direction;
  /**
   * `PORTCULLIS_ACTION_...`: what it does.
   */
  uint8_t action;
  /**
   * 1 if it is the end of the tier that the policy is in.
   */
  uint8_t tier_end;
  /**
   * 1 if the policy decides nothing and is told of.
   */
  uint8_t staged;
} portcullis_rule_info;

/**
 * A connection that is open. It grows at the end: `portcullis_engine_connections` takes its size.
 */
typedef struct portcullis_connection {
  /**
   * Who opened it.
   */
  struct portcullis_address source;
  /**
   * To whom.
   */
  struct portcullis_address destination;
  /**
   * Port of the source, host byte order; 0 where the protocol has none.
   */
  uint16_t source_port;
  /**
   * Port of the destination.
   */
  uint16_t destination_port;
  /**
   * IP protocol number.
   */
  uint8_t protocol;
  /**
   * The rule that allowed it, for `portcullis_engine_rule`; else `PORTCULLIS_NO_RULE`.
   */
  uint32_t rule;
  /**
   * Packets from the opener, and back.
   */
  uint64_t packets[2];
  /**
   * Bytes of IP packets from the opener, and back.
   */
  uint64_t bytes[2];
} portcullis_connection;

/**
 * Numbers since the start, over all workers and judges. Set `struct_size` first.
 */
typedef struct portcullis_totals {
  /**
   * `sizeof(portcullis_totals)`.
   */
  size_t struct_size;
  /**
   * Packets received, or handed to a judge.
   */
  uint64_t received;
  /**
   * Bytes of these, from the Ethernet header on.
   */
  uint64_t received_bytes;
  /**
   * Packets forwarded, or allowed by a judge.
   */
  uint64_t forwarded;
  /**
   * Bytes of these.
   */
  uint64_t forwarded_bytes;
  /**
   * Packets dropped, for whatever reason (`portcullis_engine_drops` tells them apart).
   */
  uint64_t dropped;
  /**
   * Connections opened.
   */
  uint64_t opened;
  /**
   * Connections that ended.
   */
  uint64_t ended;
  /**
   * Connections now.
   */
  uint64_t connections;
  /**
   * Events that wait to be read.
   */
  uint64_t events_waiting;
  /**
   * Events that did not fit and were not reported.
   */
  uint64_t events_lost;
  /**
   * Packets whose unfinished checksum was completed.
   */
  uint64_t checksums_completed;
  /**
   * Answers sent to senders of rejected packets.
   */
  uint64_t rejects_sent;
  /**
   * Of `connections`, TCP connections whose handshake is not finished.
   */
  uint64_t half_open;
  /**
   * Connections that there is room for.
   */
  uint64_t capacity;
  /**
   * Connections that had to go because there was no more room.
   */
  uint64_t evicted;
  /**
   * New connections and denied packets that staged policies judged too.
   */
  uint64_t staged;
  /**
   * Of these, denied now and allowed by the staged policies.
   */
  uint64_t staged_allows;
  /**
   * Of these, allowed now and denied by the staged policies.
   */
  uint64_t staged_denies;
  /**
   * Copies that switches made of packets for several interfaces: packets received and copied are
   * forwarded or dropped.
   */
  uint64_t copied;
  /**
   * Copies sent to the mirror port.
   */
  uint64_t mirrored;
  /**
   * Copies left out because the mirror port could not keep up.
   */
  uint64_t mirror_lost;
  /**
   * `events_lost` by what happened: opened, dropped (packets), ended, changed, passed alone.
   */
  uint64_t events_lost_by_kind[5];
} portcullis_totals;

/**
 * What one rule let pass and refused since the start. It grows at the end:
 * `portcullis_engine_rule_totals` takes its size.
 */
typedef struct portcullis_rule_totals {
  /**
   * The rule, for `portcullis_engine_rule`; `PORTCULLIS_NO_RULE` for packets of which none decided,
   * `PORTCULLIS_OTHER_RULES` for rules that are counted together, because there are so many.
   */
  uint32_t rule;
  /**
   * Zero.
   */
  uint32_t reserved;
  /**
   * Packets let pass.
   */
  uint64_t passed;
  /**
   * Bytes of these.
   */
  uint64_t passed_bytes;
  /**
   * Packets not let pass.
   */
  uint64_t refused;
  /**
   * Bytes of these.
   */
  uint64_t refused_bytes;
} portcullis_rule_totals;

/**
 * Settings of a firewall. Set all of it to zero, then `struct_size` to `sizeof`; 0 is the default of
 * every field.
 */
typedef struct portcullis_firewall_config {
  /**
   * `sizeof(portcullis_firewall_config)`.
   */
  size_t struct_size;
  /**
   * One end of the first wire: the name of an interface in the calling thread's network namespace.
   * NULL: no wire yet; see `portcullis_firewall_add_wire`.
   */
  const char *a;
  /**
   * The other end; NULL: what comes in at `a` leaves there.
   */
  const char *b;
  /**
   * Worker threads; 0 is one. They share out the queues of all wires.
   */
  uint32_t workers;
  /**
   * `PORTCULLIS_MODE_...`.
   */
  uint8_t mode;
  /**
   * `PORTCULLIS_FAIL_...`.
   */
  uint8_t fail;
  /**
   * 0 or `PORTCULLIS_HUGE_PAGES_...`: packet memory in huge pages, which must be reserved
   * (`vm.nr_hugepages`).
   */
  uint8_t huge_pages;
  /**
   * 1: packets for other link-layer addresses than the interface's own are not received.
   */
  uint8_t not_promiscuous;
  /**
   * A folder of a BPF file system where the programs are pinned, so that `fail` holds also when
   * the process is gone, and until a successor takes over. NULL: a process that ends leaves
   * nothing behind.
   */
  const char *pins;
  /**
   * Entries of each queue's ring of received packets: a power of two, 16 to 32768; 4096 unless
   * set.
   */
  uint32_t rx_ring;
  /**
   * The same, of packets to be sent; 1024 unless set.
   */
  uint32_t tx_ring;
  /**
   * The same, of empty frames; 4096 unless set.
   */
  uint32_t fill_ring;
  /**
   * The same, of frames that were sent; 1024 unless set.
   */
  uint32_t completion_ring;
  /**
   * Bytes of a frame: 2048 or 4096; unless set what holds a packet of the largest MTU.
   */
  uint32_t chunk_size;
  /**
   * Frames for each queue, at least 64; unless set as many as its fill and TX rings hold.
   */
  uint32_t frames_per_queue;
  /**
   * Busy polling: how long a call may look for packets, in microseconds; 0 leaves receiving to
   * interrupts. Linux 5.11.
   */
  uint32_t busy_poll_us;
  /**
   * Busy polling: packets a call may receive, at most 64 without CAP_NET_ADMIN; 64 unless set.
   */
  uint32_t busy_poll_budget;
  /**
   * Milliseconds without a heartbeat after which a worker counts as stalled, and `fail` decides.
   */
  uint32_t stale_after_ms;
  /**
   * Rounds without a packet after which a worker sleeps: more answers faster after short pauses,
   * and uses more CPU time.
   */
  uint32_t idle_rounds;
  /**
   * Longest sleep of a worker, in milliseconds: at most 100.
   */
  uint32_t tick_ms;
  /**
   * Milliseconds that one look through the whole connection table for expired ones takes.
   */
  uint32_t sweep_ms;
  /**
   * Prefixes that there is room for in the set of `portcullis_firewall_replace_early_drop`.
   */
  uint32_t early_drop_capacity;
  /**
   * CPUs for the workers: the first worker stays on the first, and so on, beginning again where
   * there are more workers.
   */
  const uint32_t *cpus;
  /**
   * How many; 0: workers go where the scheduler puts them.
   */
  size_t cpu_count;
  /**
   * The interface that copies of packets leave by, which needs a queue for each worker; which packets
   * those are says `portcullis_engine_mirror`. It is only sent to: what arrives there still goes to the
   * host's stack. Packets longer than it takes are left out. NULL: none.
   */
  const char *mirror;
  /**
   * The NUMA node of packet memory, from 1 on for node 0, 2 for node 1 and so on; 0: that of the
   * interfaces; the highest number: wherever it comes to lie.
   */
  uint32_t numa;
  /**
   * Milliseconds to wait for queues and interfaces that a predecessor is just letting go of; 2 s
   * unless set.
   */
  uint32_t busy_wait_ms;
  /**
   * Nice value of the workers' threads, from -20 to 19. 0: -20, so that no packet waits for other work
   * of the machine; `PORTCULLIS_NICE_ORDINARY`: 0. Where CAP_SYS_NICE is missing they keep that of
   * the calling thread.
   */
  int32_t nice;
  /**
   * Zero.
   */
  uint32_t reserved;
} portcullis_firewall_config;

/**
 * One interface in use. Set `struct_size` first.
 */
typedef struct portcullis_port {
  /**
   * `sizeof(portcullis_port)`.
   */
  size_t struct_size;
  /**
   * Its name, NUL-terminated.
   */
  char name[16];
  /**
   * The mode that the kernel reports, for people, NUL-terminated.
   */
  char mode[64];
  /**
   * Queues in use: all it has.
   */
  uint32_t queues;
  /**
   * MTU in bytes.
   */
  uint32_t mtu;
  /**
   * The name of its wire, NUL-terminated, cut if it is longer.
   */
  char wire[64];
  /**
   * Bytes of packet memory of its wire.
   */
  uint64_t memory;
  /**
   * 1 if that lies in huge pages.
   */
  uint32_t huge_pages;
  /**
   * Zero.
   */
  uint32_t reserved;
} portcullis_port;

/**
 * What the kernel counted on one socket. It grows at the end: `portcullis_firewall_sockets` takes its
 * size.
 */
typedef struct portcullis_socket {
  /**
   * Which interface, as `portcullis_firewall_port` counts them now.
   */
  uint32_t port;
  /**
   * Which queue of it.
   */
  uint32_t queue;
  /**
   * Packets dropped for reasons of the socket: too long for a frame, or no frame.
   */
  uint64_t rx_dropped;
  /**
   * Packets dropped because the RX ring was full.
   */
  uint64_t rx_ring_full;
  /**
   * Times the fill ring was found empty.
   */
  uint64_t rx_fill_ring_empty;
  /**
   * Times the TX ring was found empty.
   */
  uint64_t tx_ring_empty;
  /**
   * Descriptors in the fill ring that the kernel did not take: zero, or a mistake of this library.
   */
  uint64_t rx_invalid_descriptors;
  /**
   * The same in the TX ring.
   */
  uint64_t tx_invalid_descriptors;
} portcullis_socket;

/**
 * What the XDP program on one interface did with its packets. It grows at the end:
 * `portcullis_firewall_programs` takes its size.
 */
typedef struct portcullis_program {
  /**
   * Which interface, as `portcullis_firewall_port` counts them now.
   */
  uint32_t port;
  /**
   * Zero.
   */
  uint32_t reserved;
  /**
   * Handed to the socket of their queue.
   */
  uint64_t to_socket;
  /**
   * Dropped, because their queue had no socket.
   */
  uint64_t miss_dropped;
  /**
   * Passed to the host's stack, because their queue had no socket.
   */
  uint64_t miss_passed;
  /**
   * Dropped, because their queue's worker had stalled.
   */
  uint64_t stale_dropped;
  /**
   * Passed to the host's stack, because their queue's worker had stalled.
   */
  uint64_t stale_passed;
  /**
   * Dropped, because of the early-drop set.
   */
  uint64_t early_dropped;
} portcullis_program;

/**
 * An interface is not what it was. It grows at the end: `portcullis_firewall_port_changes` takes its
 * size.
 */
typedef struct portcullis_port_change {
  /**
   * The interface, NUL-terminated.
   */
  char name[16];
  /**
   * Which interface, as `portcullis_firewall_port` counts them now; the highest number if it was
   * removed with its wire.
   */
  uint32_t port;
  /**
   * What it is now: `PORTCULLIS_PORT_...`; numbers that the caller does not know may come in later
   * versions.
   */
  uint32_t state;
  /**
   * The name of its wire, NUL-terminated, cut if it is longer.
   */
  char wire[64];
} portcullis_port_change;

/**
 * Interfaces that belong together. Set all of it to zero, then `struct_size` to `sizeof`. Texts are
 * NUL-terminated.
 */
typedef struct portcullis_wire {
  /**
   * `sizeof(portcullis_wire)`.
   */
  size_t struct_size;
  /**
   * An interface of the calling thread's network namespace.
   */
  const char *a;
  /**
   * The other end: what comes in at one leaves, if allowed, at the other. NULL: what comes in at
   * `a` leaves there, if allowed (a hairpin).
   */
  const char *b;
  /**
   * What it is called; NULL is `a:b`, or `a`.
   */
  const char *name;
  /**
   * 1: rings of 128 packets and 256 frames a queue, as becomes a link to one pod.
   */
  uint8_t small_rings;
  /**
   * Further interfaces, up to 64 in all: then all of them are a switch, which must have a `name`. What
   * comes in at one leaves, if allowed, at the one behind which its destination spoke last, and at
   * all others if that is not known or means a group.
   */
  const char *const *others;
  /**
   * How many.
   */
  size_t other_count;
  /**
   * Of a switch: milliseconds for which an address is remembered that says nothing; 300 s unless set.
   */
  uint32_t learn_age_ms;
  /**
   * Of a switch: addresses behind each interface that are remembered; 1024 unless set, at most a
   * million.
   */
  uint32_t learn_addresses;
  /**
   * Of a switch: packets a second from each interface that go to all others, because they are for
   * groups, for everybody or for addresses that are not known; more are dropped. 1000 unless set, and
   * none if it is the highest number.
   */
  uint32_t floods_per_second;
  /**
   * Of a switch: how many of these at once after a silence; as many as in a second unless set.
   */
  uint32_t floods_burst;
} portcullis_wire;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The ABI version of the library that is loaded: compare it with `PORTCULLIS_ABI_VERSION` of the
 * header that the caller was compiled with. Never fails; any thread.
 */
uint32_t portcullis_abi_version(void);

/**
 * The library's version as static NUL-terminated text such as `0.1.0`; the caller must not free it.
 * Never fails; any thread.
 */
const char *portcullis_version(void);

/**
 * Makes an engine with nothing in force.
 *
 * `config`: NULL for all defaults. `out`: the engine; free it with `portcullis_engine_free`. Any
 * thread.
 *
 * Undefined unless:
 * `config` is NULL or begins with its size, and `tunnels` has as many as it says; `out` points to room
 * for a pointer.
 */
int32_t portcullis_engine_new(const struct portcullis_engine_config *config,
                              struct portcullis_engine **out);

/**
 * Frees an engine. Its judges and firewalls keep what they need until they are freed too. NULL is
 * fine; an engine that was freed already is `PORTCULLIS_BAD_HANDLE`. Any thread.
 */
int32_t portcullis_engine_free(struct portcullis_engine *engine);

/**
 * Moves the clock of an engine that was made with `virtual_clock` on, to so many nanoseconds after its
 * beginning; an earlier time than it shows is ignored. `PORTCULLIS_BAD_VALUE` for other engines.
 */
int32_t portcullis_engine_set_time(const struct portcullis_engine *engine,
                                   uint64_t nanoseconds);

/**
 * The text of the last call on this engine that failed with one, NUL-terminated UTF-8. Works on a
 * poisoned engine too.
 *
 * `buffer`, `size`: where to; a size of 0 asks for `needed` only. `needed`: bytes needed, the NUL
 * included; may be NULL. `PORTCULLIS_TOO_SMALL` if the text does not fit: nothing is written to the
 * buffer then.
 *
 * Undefined unless:
 * `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
 */
int32_t portcullis_engine_error(const struct portcullis_engine *engine,
                                char *buffer,
                                size_t size,
                                size_t *needed);

/**
 * Replaces cluster and policies by what these texts say. Compiled aside, then put in force with one
 * pointer store: a packet is judged by the old set or the new. Live connections are judged again.
 * Sets that were replaced keep their content.
 *
 * `applied`: what is in force now; may be NULL. On any other status everything stays as it was; after
 * `PORTCULLIS_REFUSED` the error text has a line for each finding.
 *
 * Undefined unless:
 * The arrays have as many texts as their counts say, each as described there.
 */
int32_t portcullis_engine_apply(const struct portcullis_engine *engine,
                                const struct portcullis_text *cluster,
                                size_t cluster_count,
                                const struct portcullis_text *policies,
                                size_t policy_count,
                                struct portcullis_applied *applied);

/**
 * As `portcullis_engine_apply`, from files or folders (every `*.yaml`, `*.yml` and `*.json` in them).
 *
 * Undefined unless:
 * `cluster` and each of the `policy_count` `policies` is a NUL-terminated path.
 */
int32_t portcullis_engine_apply_files(const struct portcullis_engine *engine,
                                      const char *cluster,
                                      const char *const *policies,
                                      size_t policy_count,
                                      struct portcullis_applied *applied);

/**
 * Replaces the policies by what these texts say, and leaves the cluster, endpoints that came and went
 * included. All else as `portcullis_engine_apply`.
 *
 * Undefined unless:
 * The array has as many texts as its count says, each as described there.
 */
int32_t portcullis_engine_set_policies(const struct portcullis_engine *engine,
                                       const struct portcullis_text *policies,
                                       size_t policy_count,
                                       struct portcullis_applied *applied);

/**
 * Replaces the cluster (namespaces, pods, nodes) by what these texts say, and leaves the policies. All
 * else as `portcullis_engine_apply`.
 *
 * Undefined unless:
 * The array has as many texts as its count says, each as described there.
 */
int32_t portcullis_engine_set_cluster(const struct portcullis_engine *engine,
                                      const struct portcullis_text *cluster,
                                      size_t cluster_count,
                                      struct portcullis_applied *applied);

/**
 * What the documents that were applied last gave reason to warn of, a line `file:line:col: warning:
 * ...` for each finding: rules that do nothing, open questions of order. Empty if there was none.
 * Buffer and sizes as in `portcullis_engine_error`.
 *
 * Undefined unless:
 * `buffer` has room for `size` bytes.
 */
int32_t portcullis_engine_warnings(const struct portcullis_engine *engine,
                                   char *buffer,
                                   size_t size,
                                   size_t *needed);

/**
 * What is in force.
 *
 * Undefined unless:
 * `out` points to an `applied` whose `struct_size` is set.
 */
int32_t portcullis_engine_applied(const struct portcullis_engine *engine,
                                  struct portcullis_applied *out);

/**
 * Exactly which flows would be decided otherwise if these documents were applied, for people: groups
 * of flows, the decision before and after, an example each. Nothing is changed. What
 * `portcullis_engine_replace_set` put into sets stays in them, on both sides.
 *
 * `cluster`: NULL, with a count of 0, for the cluster in force. `changes`: how many groups there are,
 * 0 if every flow is decided alike; may be NULL. Buffer and sizes as in `portcullis_engine_error`;
 * each call compares anew, so offer a generous buffer first.
 *
 * Undefined unless:
 * The arrays have as many texts as their counts say, `buffer` has room for `size` bytes.
 */
int32_t portcullis_engine_diff(const struct portcullis_engine *engine,
                               const struct portcullis_text *cluster,
                               size_t cluster_count,
                               const struct portcullis_text *policies,
                               size_t policy_count,
                               char *buffer,
                               size_t size,
                               size_t *needed,
                               size_t *changes);

/**
 * Proves, exhaustively, that the program in force says what the policies say: `PORTCULLIS_PROOF`,
 * and the error text says where the two differ, if not. Takes longer than applying, and changes wait
 * for it; judging does not.
 *
 * `regions`: how many regions of headers were compared; may be NULL.
 *
 * Undefined unless:
 * `regions` is NULL or points to room for a number.
 */
int32_t portcullis_engine_prove(const struct portcullis_engine *engine,
                                uint64_t *regions);

/**
 * Adds endpoints, or replaces those of the same namespace and name, one after the other. Each is in
 * force when the next begins; the first that is refused ends the call.
 *
 * `endpoint_size`: `sizeof(portcullis_endpoint)`. `done`: how many are in force; may be NULL; written
 * also if one was refused.
 *
 * Undefined unless:
 * `endpoints` has `count` endpoints of that size.
 */
int32_t portcullis_engine_upsert_endpoints(const struct portcullis_engine *engine,
                                           const struct portcullis_endpoint *endpoints,
                                           size_t endpoint_size,
                                           size_t count,
                                           size_t *done);

/**
 * Takes endpoints out: their addresses are then outside the cluster.
 *
 * `removed`: how many were there; may be NULL.
 *
 * Undefined unless:
 * `names` has `count` names.
 */
int32_t portcullis_engine_remove_endpoints(const struct portcullis_engine *engine,
                                           const struct portcullis_endpoint_name *names,
                                           size_t count,
                                           size_t *removed);

/**
 * Makes the endpoints exactly these, all at once: no packet is judged by a mix.
 *
 * Undefined unless:
 * `endpoints` has `count` endpoints of that size.
 */
int32_t portcullis_engine_replace_endpoints(const struct portcullis_engine *engine,
                                            const struct portcullis_endpoint *endpoints,
                                            size_t endpoint_size,
                                            size_t count);

/**
 * Makes a set that the policies declare hold exactly these prefixes, all at once; it keeps them when
 * policies are applied again. A million take some 0.11 s (docs/performance/embedding.md), in which packets
 * are judged by what was before, and endpoints come and go: their changes wait for milliseconds at most.
 *
 * `name`: as policies have it, such as `GlobalNetworkSet//feed` or `NetworkSet/shop/partners`.
 *
 * Undefined unless:
 * `name` is NUL-terminated, `prefixes` has `count` prefixes.
 */
int32_t portcullis_engine_replace_set(const struct portcullis_engine *engine,
                                      const char *name,
                                      const struct portcullis_prefix *prefixes,
                                      size_t count);

/**
 * Lets the documents say again what a set holds, from the next apply on.
 *
 * `forgotten`: 1 if the set had been replaced, else 0; may be NULL.
 *
 * Undefined unless:
 * `name` is NUL-terminated, `forgotten` is NULL or points to room for an `int`.
 */
int32_t portcullis_engine_forget_set(const struct portcullis_engine *engine,
                                     const char *name,
                                     int *forgotten);

/**
 * The sets that the policies declare, a line `prefixes name` for each, such as `1000000
 * GlobalNetworkSet//feed`. Buffer and sizes as in `portcullis_engine_error`.
 *
 * Undefined unless:
 * `buffer` has room for `size` bytes.
 */
int32_t portcullis_engine_sets(const struct portcullis_engine *engine,
                               char *buffer,
                               size_t size,
                               size_t *needed);

/**
 * Judges by these policies too, from now on, over the same cluster and without any effect on packets:
 * every new connection, and every packet that the policies in force deny. Where the two differ, events
 * (`staged`) and totals say so. Replaces what was staged before, and follows every change of the
 * cluster. On any other status what was staged before goes on.
 *
 * Undefined unless:
 * `policies` has `count` texts, each as described there.
 */
int32_t portcullis_engine_stage(const struct portcullis_engine *engine,
                                const struct portcullis_text *policies,
                                size_t count);

/**
 * Ends `portcullis_engine_stage`; fine if nothing is staged.
 */
int32_t portcullis_engine_unstage(const struct portcullis_engine *engine);

/**
 * How many policies are staged; 0 if nothing is. `PORTCULLIS_POLICY`, and the error text says why, if
 * what was staged came to an end by itself: the cluster has become too much for it.
 *
 * Undefined unless:
 * `count` points to room for a number.
 */
int32_t portcullis_engine_staged(const struct portcullis_engine *engine,
                                 size_t *count);

/**
 * As `portcullis_engine_apply`, for one zone: an address space of its own to which tunnels lead
 * (`tunnels` of the engine's settings). Its cluster and policies are its own; connections, workers,
 * events and counters are the engine's. Packets of a zone to which nothing was applied are denied, and
 * so is everything until the engine itself has something in force. Limits and rates of identities count
 * equal numbers of different zones together.
 *
 * `zone`: its number, from 1 on; `PORTCULLIS_BAD_VALUE` for 0, as in all functions of zones: 0 is the
 * engine itself.
 *
 * Undefined unless:
 * The arrays have as many texts as their counts say, each as described there.
 */
int32_t portcullis_zone_apply(const struct portcullis_engine *engine,
                              uint16_t zone,
                              const struct portcullis_text *cluster,
                              size_t cluster_count,
                              const struct portcullis_text *policies,
                              size_t policy_count,
                              struct portcullis_applied *applied);

/**
 * Takes cluster and policies of a zone away: its packets are denied from now on.
 *
 * `removed`: 1 if there was something, else 0; may be NULL.
 *
 * Undefined unless:
 * `removed` is NULL or points to room for an `int`.
 */
int32_t portcullis_zone_remove(const struct portcullis_engine *engine, uint16_t zone, int *removed);

/**
 * As `portcullis_engine_upsert_endpoints`, for one zone; `PORTCULLIS_NO_SUCH_ZONE` if nothing was applied
 * to it yet.
 *
 * Undefined unless:
 * `endpoints` has `count` endpoints of that size.
 */
int32_t portcullis_zone_upsert_endpoints(const struct portcullis_engine *engine,
                                         uint16_t zone,
                                         const struct portcullis_endpoint *endpoints,
                                         size_t endpoint_size,
                                         size_t count,
                                         size_t *done);

/**
 * As `portcullis_engine_remove_endpoints`, for one zone; none are there if nothing was applied to it.
 *
 * Undefined unless:
 * `names` has `count` names.
 */
int32_t portcullis_zone_remove_endpoints(const struct portcullis_engine *engine,
                                         uint16_t zone,
                                         const struct portcullis_endpoint_name *names,
                                         size_t count,
                                         size_t *removed);

/**
 * What is in force in a zone; `PORTCULLIS_NO_SUCH_ZONE` if nothing is.
 *
 * Undefined unless:
 * `out` points to an `applied` whose `struct_size` is set.
 */
int32_t portcullis_zone_applied(const struct portcullis_engine *engine,
                                uint16_t zone,
                                struct portcullis_applied *out);

/**
 * Decides one flow between addresses of a zone, for people and tests; `PORTCULLIS_NO_SUCH_ZONE` if
 * nothing is in force.
 *
 * `verdict`: `PORTCULLIS_ALLOW` or `PORTCULLIS_DENY`. `buffer`: the rule that decided, as
 * `portcullis_engine_rule` says it, empty if none did; sizes as in `portcullis_engine_error`.
 *
 * Undefined unless:
 * `flow` points to a flow, `verdict` to room for a number, `buffer` has room for `size` bytes.
 */
int32_t portcullis_zone_evaluate(const struct portcullis_engine *engine,
                                 uint16_t zone,
                                 const struct portcullis_flow *flow,
                                 uint8_t *verdict,
                                 char *buffer,
                                 size_t size,
                                 size_t *needed);

/**
 * The numbers of the zones that have something in force, ascending.
 *
 * `capacity`: room in `zones`; what is beyond is left out. `count`: how many there are.
 *
 * Undefined unless:
 * `zones` has room for `capacity` numbers, `count` points to room for one.
 */
int32_t portcullis_engine_zones(const struct portcullis_engine *engine,
                                uint16_t *zones,
                                size_t capacity,
                                size_t *count);

/**
 * Makes an empty set of policies.
 *
 * `out`: the policies; free them with `portcullis_policies_free`. Any thread.
 *
 * Undefined unless:
 * `out` points to room for a pointer.
 */
int32_t portcullis_policies_new(struct portcullis_policies **out);

/**
 * Frees policies; what was put in force stays. NULL is fine; what was freed already is
 * `PORTCULLIS_BAD_HANDLE`. Any thread.
 */
int32_t portcullis_policies_free(struct portcullis_policies *policies);

/**
 * The text of the last call on these policies that failed with one; see `portcullis_engine_error`.
 *
 * Undefined unless:
 * `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
 */
int32_t portcullis_policies_error(const struct portcullis_policies *policies,
                                  char *buffer,
                                  size_t size,
                                  size_t *needed);

/**
 * Begins with what documents say, to which more may be added: replaces all tiers and sets. Their tiers
 * have the numbers from 0 on in the order in which they decide, their sets and policies likewise.
 *
 * `tiers`, `sets`, `count`: how many tiers, sets and policies there are now; each may be NULL. On any
 * other status everything stays as it was.
 *
 * Undefined unless:
 * `texts` has `text_count` texts, each as described there; `tiers`, `sets` and `count` are NULL or point
 * to room for a number.
 */
int32_t portcullis_policies_read(const struct portcullis_policies *policies,
                                 const struct portcullis_text *texts,
                                 size_t text_count,
                                 uint32_t *tiers,
                                 uint32_t *sets,
                                 uint32_t *count);

/**
 * Adds a tier behind the others.
 *
 * `name`: `kube-admin`, `default`, `kube-baseline` for what stands for those of Kubernetes, or any other
 * that no tier has yet; NUL-terminated UTF-8. `end`: `PORTCULLIS_TIER_...`. `number`: by which policies
 * name it.
 *
 * Undefined unless:
 * `name` is NUL-terminated, `number` points to room for a number.
 */
int32_t portcullis_policies_add_tier(const struct portcullis_policies *policies,
                                     const char *name,
                                     uint8_t end,
                                     uint32_t *number);

/**
 * Adds a set of prefixes, which `portcullis_engine_replace_set` may replace later.
 *
 * `name`: for example `GlobalNetworkSet//feed`; no other set has it. NUL-terminated UTF-8. `number`: by
 * which expressions name it.
 *
 * Undefined unless:
 * `name` is NUL-terminated, `prefixes` has `count` prefixes, `number` points to room for a number.
 */
int32_t portcullis_policies_add_set(const struct portcullis_policies *policies,
                                    const char *name,
                                    const struct portcullis_prefix *prefixes,
                                    size_t count,
                                    uint32_t *number);

/**
 * Adds a policy behind the others of its tier.
 *
 * `number`: by which rules name it. What is wrong names the policy and the field in the error text.
 *
 * Undefined unless:
 * `policy` begins with its size, its pointers are NULL or point to what is described there; `number`
 * points to room for a number.
 */
int32_t portcullis_policies_add_policy(const struct portcullis_policies *policies,
                                       const struct portcullis_policy *policy,
                                       uint32_t *number);

/**
 * Adds a rule behind the others of its policy and direction. What is wrong names the policy, the rule and
 * the field in the error text.
 *
 * Undefined unless:
 * `rule` begins with its size, its pointers are NULL or point to what is described there.
 */
int32_t portcullis_policies_add_rule(const struct portcullis_policies *policies,
                                     const struct portcullis_rule *rule);

/**
 * As `portcullis_engine_apply` or `portcullis_zone_apply`, with values instead of documents.
 *
 * `zone`: 0 is the engine itself. `cluster`: NULL leaves the one in force, which only the engine itself
 * can (`portcullis_engine_set_policies`). `policies`: what they are now is copied.
 *
 * Undefined unless:
 * `cluster` is NULL or begins with its size, its pointers are NULL or point to what is described there;
 * `applied` is NULL or begins with its size.
 */
int32_t portcullis_engine_apply_policies(const struct portcullis_engine *engine,
                                         uint16_t zone,
                                         const struct portcullis_cluster *cluster,
                                         const struct portcullis_policies *policies,
                                         struct portcullis_applied *applied);

/**
 * As `portcullis_engine_set_cluster`, with values instead of documents.
 *
 * Undefined unless:
 * `cluster` begins with its size, its pointers are NULL or point to what is described there; `applied`
 * is NULL or begins with its size.
 */
int32_t portcullis_engine_set_cluster_values(const struct portcullis_engine *engine,
                                             const struct portcullis_cluster *cluster,
                                             struct portcullis_applied *applied);

/**
 * As `portcullis_engine_stage`, with values instead of documents.
 */
int32_t portcullis_engine_stage_policies(const struct portcullis_engine *engine,
                                         const struct portcullis_policies *policies);

/**
 * As `portcullis_engine_diff`, with values instead of documents.
 *
 * Undefined unless:
 * `cluster` is NULL or begins with its size, its pointers are NULL or point to what is described there;
 * `buffer` has room for `size` bytes.
 */
int32_t portcullis_engine_diff_policies(const struct portcullis_engine *engine,
                                        const struct portcullis_cluster *cluster,
                                        const struct portcullis_policies *policies,
                                        char *buffer,
                                        size_t size,
                                        size_t *needed,
                                        size_t *changes);

/**
 * Limits how many packets pass, from now on, instead of what was limited before; packets beyond are
 * dropped (reason `rate_limit`). Names may be of rules that are loaded later
 * (`portcullis_engine_unknown_rules`). Buckets begin full, and are full again when rules are loaded that
 * have a limit and were never loaded before.
 *
 * `identity`: of the connections that each identity opened, both ways; NULL: no limit. `rules`: of
 * several that mean one rule the last counts. `rule_size`: `sizeof(portcullis_rule_rate)`. Any thread.
 *
 * Undefined unless:
 * `identity` is NULL or points to a rate, `rules` has `count` of that size, whose texts are
 * NUL-terminated.
 */
int32_t portcullis_engine_limit_rates(const struct portcullis_engine *engine,
                                      const struct portcullis_rate *identity,
                                      const struct portcullis_rule_rate *rules,
                                      size_t rule_size,
                                      size_t count);

/**
 * Copies packets to the interface `mirror` of the firewall's settings, from now on, instead of what was
 * copied before. Names may be of rules that are loaded later (`portcullis_engine_unknown_rules`).
 * Without such an interface nothing is copied; packets of judges are not: their caller has them.
 *
 * `mirrored`: NULL to copy none. Any thread.
 *
 * Undefined unless:
 * `mirrored` is NULL or begins with its size, `rules` has as many as it says, their texts are
 * NUL-terminated.
 */
int32_t portcullis_engine_mirror(const struct portcullis_engine *engine,
                                 const struct portcullis_mirrored *mirrored);

/**
 * The names given to `portcullis_engine_limit_rates` and `portcullis_engine_mirror` that no rule loaded
 * so far has, a line `policy [ingress|egress] [rule N]` for each: perhaps misspelt. Buffer and sizes as
 * in `portcullis_engine_error`.
 *
 * Undefined unless:
 * `buffer` has room for `size` bytes.
 */
int32_t portcullis_engine_unknown_rules(const struct portcullis_engine *engine,
                                        char *buffer,
                                        size_t size,
                                        size_t *needed);

/**
 * Makes a judge of an engine, which lives on until the judge is freed too.
 *
 * `out`: the judge; free it with `portcullis_judge_free`. Any thread.
 *
 * Undefined unless:
 * `out` points to room for a pointer.
 */
int32_t portcullis_judge_new(const struct portcullis_engine *engine, struct portcullis_judge **out);

/**
 * Frees a judge. NULL is fine; a judge that was freed already is `PORTCULLIS_BAD_HANDLE`. Any thread.
 */
int32_t portcullis_judge_free(struct portcullis_judge *judge);

/**
 * The text of the last call on this judge that failed with one; see `portcullis_engine_error`.
 *
 * Undefined unless:
 * `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
 */
int32_t portcullis_judge_error(const struct portcullis_judge *judge,
                               char *buffer,
                               size_t size,
                               size_t *needed);

/**
 * Judges packets in order: `out[n]` is what becomes of `packets[n]`. Connections are tracked: an
 * answer passes because its question did.
 *
 * `now`: the time in nanoseconds, which should not go back, for replays; 0 is the engine's own clock.
 * `out`: room for `count` judgements; written only if the call succeeds. After any other status no
 * packet of the batch may pass.
 *
 * A call also looks for connections that have expired, a part of the table each time. Without packets
 * (`count` 0) make one some times a second, so that their ends are told.
 *
 * Held fragments that pass now, and answers to packets that were rejected, are to be had from
 * `portcullis_judge_frames`.
 *
 * Hand over 32 packets or more at a time. One thread at a time (`PORTCULLIS_BUSY`). No allocation (but
 * for those frames), no lock that others hold for long, no system call.
 *
 * Undefined unless:
 * `packets` points to `count` packets whose `data` point to `len` bytes each; `out` to room, which is
 * no part of the packets.
 */
int32_t portcullis_judge_packets(const struct portcullis_judge *judge,
                                 uint64_t now,
                                 const struct portcullis_packet *packets,
                                 size_t count,
                                 struct portcullis_judgement *out);

/**
 * Hands over the frames to send that came with the last `portcullis_judge_packets`: fragments that
 * were held and pass now, and answers to packets that were rejected. Each once, at most `capacity`;
 * what is not fetched before packets are judged again is dropped.
 *
 * `frame_size`: `sizeof(portcullis_frame)`.
 * `bytes`, `bytes_size`: room for their bytes, which the frames point into. Those that do not fit wait
 * for another call; `PORTCULLIS_TOO_SMALL` if not even the first fits.
 * `count`: how many frames were written. `waiting`: how many still wait; may be NULL. So a call with
 * no room at all tells whether there are any.
 *
 * One thread at a time (`PORTCULLIS_BUSY`).
 *
 * Undefined unless:
 * `frames` points to room for `capacity` frames of that size, `bytes` to room for so many bytes,
 * `count` to room for a number; they share no memory.
 */
int32_t portcullis_judge_frames(const struct portcullis_judge *judge,
                                struct portcullis_frame *frames,
                                size_t frame_size,
                                size_t capacity,
                                uint8_t *bytes,
                                size_t bytes_size,
                                size_t *count,
                                size_t *waiting);

/**
 * Decides flows by the policy alone: no connections, no records, no counting. `out[n]` is the answer
 * for `flows[n]`. A flow whose addresses are of different families is denied.
 *
 * `out`: room for `count` judgements; written only if the call succeeds. One thread at a time.
 *
 * Undefined unless:
 * `flows` points to `count` flows, `out` to room for as many judgements, which is no part of them.
 */
int32_t portcullis_judge_flows(const struct portcullis_judge *judge,
                               const struct portcullis_flow *flows,
                               size_t count,
                               struct portcullis_judgement *out);

/**
 * Begins a capture; nothing is copied before `portcullis_capture_allow`. At most 8 at a time on an
 * engine (`PORTCULLIS_SYSTEM`). Packets of judges are not captured: their caller has them.
 *
 * `filter`: NULL for all of every packet. `out`: the capture; end it with `portcullis_capture_free`.
 * Any thread.
 *
 * Undefined unless:
 * `filter` is NULL or begins with its size, its arrays have as many values as their counts say;
 * `out` points to room for a pointer.
 */
int32_t portcullis_capture_new(const struct portcullis_engine *engine,
                               const struct portcullis_capture_filter *filter,
                               struct portcullis_capture **out);

/**
 * Ends a capture and frees it. NULL is fine; a capture that was freed already is
 * `PORTCULLIS_BAD_HANDLE`. Any thread.
 */
int32_t portcullis_capture_free(struct portcullis_capture *capture);

/**
 * The text of the last call on this capture that failed with one; see `portcullis_engine_error`.
 *
 * Undefined unless:
 * `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
 */
int32_t portcullis_capture_error(const struct portcullis_capture *capture,
                                 char *buffer,
                                 size_t size,
                                 size_t *needed);

/**
 * Changes what is captured from now on. NULL is all of every packet.
 *
 * Undefined unless:
 * As `portcullis_capture_new`.
 */
int32_t portcullis_capture_set_filter(const struct portcullis_capture *capture,
                                      const struct portcullis_capture_filter *filter);

/**
 * Lets workers copy up to `packets` from now on; what was allowed before and not used is gone. Called
 * in regular steps it bounds the rate.
 */
int32_t portcullis_capture_allow(const struct portcullis_capture *capture,
                                 uint32_t packets);

/**
 * Hands over packets that were copied, each once and at most `capacity`; those of one worker in their
 * order.
 *
 * `packet_size`: `sizeof(portcullis_captured)`.
 * `bytes`, `bytes_size`: room for their bytes, which the packets point into. Those that do not fit
 * wait for another call; `PORTCULLIS_TOO_SMALL` if not even the first fits.
 * `count`: how many were written. `waiting`: how many still wait; may be NULL.
 *
 * A worker's ring holds 4 MiB, and so does what waits for a capture: read often. Any thread.
 *
 * Undefined unless:
 * `packets` points to room for `capacity` packets of that size, `bytes` to room for so many bytes,
 * `count` to room for a number; they share no memory.
 */
int32_t portcullis_capture_packets(const struct portcullis_capture *capture,
                                   struct portcullis_captured *packets,
                                   size_t packet_size,
                                   size_t capacity,
                                   uint8_t *bytes,
                                   size_t bytes_size,
                                   size_t *count,
                                   size_t *waiting);

/**
 * Packets that the filter wanted and that are not to be had.
 *
 * `lost`: those that did not fit into a worker's ring or among those that wait: exact.
 * `over_budget`: those beyond what `portcullis_capture_allow` allowed. Either may be NULL.
 *
 * Undefined unless:
 * `lost` and `over_budget` are NULL or point to room for a number each.
 */
int32_t portcullis_capture_lost(const struct portcullis_capture *capture,
                                uint64_t *lost,
                                uint64_t *over_budget);

/**
 * Hands over what was recorded since the last call, at most `capacity` events, oldest first for each
 * worker. What did not fit inside the library meanwhile is counted (`events_lost` of
 * `portcullis_engine_totals`).
 *
 * `event_size`: `sizeof(portcullis_event)`.
 * `text`, `text_size`: room for the texts, which the events point into; 256 bytes an event hold most.
 * `count`: how many events were written; 0 means that none waits. As long as some wait the descriptor of
 * `portcullis_engine_event_fd` stays readable.
 *
 * Any thread; each event goes to one of several readers.
 *
 * Undefined unless:
 * `events` points to room for `capacity` events of that size, `text` to room for that many bytes,
 * `count` to room for a number.
 */
int32_t portcullis_engine_events(const struct portcullis_engine *engine,
                                 struct portcullis_event *events,
                                 size_t event_size,
                                 size_t capacity,
                                 char *text,
                                 size_t text_size,
                                 size_t *count);

/**
 * A descriptor that becomes readable when events wait, for poll and epoll. `portcullis_engine_events`
 * makes it unreadable again once none waits. It belongs to the engine: do not read or close it, and
 * do not use it once the engine is freed.
 *
 * Undefined unless:
 * `out` points to room for an `int`.
 */
int32_t portcullis_engine_event_fd(const struct portcullis_engine *engine,
                                   int *out);

/**
 * The stable name of a reason, such as `policy_denied`, as static NUL-terminated text; `none` for
 * `PORTCULLIS_NO_REASON`, `unknown` for numbers that mean nothing. Reasons count from 0 without gaps.
 *
 * Never fails; any thread; the caller must not free the text.
 */
const char *portcullis_reason_name(uint8_t reason);

/**
 * Makes a recorder of an engine. Each event goes to one reader only: use one recorder, and then
 * neither another nor `portcullis_engine_events`. Set `denied_burst` of the engine so that floods are
 * summed up before they get here.
 *
 * `config`: NULL for all defaults. `out`: the recorder; free it with `portcullis_recorder_free`. Any
 * thread.
 *
 * Undefined unless:
 * `config` is NULL or begins with its size, its texts are NUL-terminated, `policies` has as many as it
 * says; `out` points to room for a pointer.
 */
int32_t portcullis_recorder_new(const struct portcullis_engine *engine,
                                const struct portcullis_recorder_config *config,
                                struct portcullis_recorder **out);

/**
 * Frees a recorder; what it summed up and was not read is gone (`portcullis_recorder_finish`). NULL is
 * fine; one that was freed already is `PORTCULLIS_BAD_HANDLE`. Any thread.
 */
int32_t portcullis_recorder_free(struct portcullis_recorder *recorder);

/**
 * The text of the last call on this recorder that failed with one; see `portcullis_engine_error`.
 *
 * Undefined unless:
 * `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
 */
int32_t portcullis_recorder_error(const struct portcullis_recorder *recorder,
                                  char *buffer,
                                  size_t size,
                                  size_t *needed);

/**
 * Reads what happened, records what is due, and hands over records: whole lines of JSON, each ended
 * by a newline, without a NUL. What the fields mean stands in docs/flow-records.md (`form`). Call it whenever
 * the descriptor of `portcullis_engine_event_fd` is readable, and some times a second besides.
 *
 * `text`, `size`: where to; 64 KiB are a good start. `PORTCULLIS_TOO_SMALL` if not even the first
 * line fits.
 * `written`: bytes of text; 0 if there is no record. Call again until it is.
 * `lost`: events and records that there was no room for since the start; may be NULL.
 *
 * Undefined unless:
 * `text` has room for `size` bytes, `written` points to room for a number, and so does `lost` unless
 * it is NULL.
 */
int32_t portcullis_recorder_read(const struct portcullis_recorder *recorder,
                                 char *text,
                                 size_t size,
                                 size_t *written,
                                 uint64_t *lost);

/**
 * What a recorder did since the start.
 *
 * Undefined unless:
 * `out` points to a struct whose `struct_size` is set.
 */
int32_t portcullis_recorder_recorded(const struct portcullis_recorder *recorder,
                                     struct portcullis_recorded *out);

/**
 * Records everything that is there, due or not, such as denials that are still summed up: at the end,
 * before the last reading.
 */
int32_t portcullis_recorder_finish(const struct portcullis_recorder *recorder);

/**
 * As `portcullis_engine_diff`, as a JSON object: what `portcullis diff --json` prints.
 *
 * Undefined unless:
 * The arrays have as many texts as their counts say, `buffer` has room for `size` bytes.
 */
int32_t portcullis_engine_diff_json(const struct portcullis_engine *engine,
                                    const struct portcullis_text *cluster,
                                    size_t cluster_count,
                                    const struct portcullis_text *policies,
                                    size_t policy_count,
                                    char *buffer,
                                    size_t size,
                                    size_t *needed);

/**
 * Who can reach an endpoint by what is in force, or whom it can reach: by rule, with protocols and ports.
 * Works on a copy of what is in force.
 *
 * `direction`: `PORTCULLIS_INGRESS` for who can reach it, `PORTCULLIS_EGRESS` for whom it can reach.
 * `as_json`: 1 for a JSON object, what `portcullis reach --json` prints; 0 for people. Buffer and sizes as
 * in `portcullis_engine_error`. `PORTCULLIS_BAD_VALUE` if there is no such endpoint, or it shares its
 * node's network, where policies do not apply.
 *
 * Undefined unless:
 * The names are NUL-terminated, `buffer` has room for `size` bytes.
 */
int32_t portcullis_engine_reach(const struct portcullis_engine *engine,
                                const char *namespace_name,
                                const char *name,
                                uint8_t direction,
                                uint8_t as_json,
                                char *buffer,
                                size_t size,
                                size_t *needed);

/**
 * What is probably a mistake in policies over the cluster in force, although it may be written: rules that
 * never have a say, policies that select nothing, doors left open, workloads cut off from what they need.
 *
 * `policies`: NULL, with a count of 0, for those in force. `as_json`: 1 for a JSON array of objects with
 * `level`, `code`, `origin` and `message`; 0 for a line `file:line:col: warning: message [code]` for each.
 * `findings`: how many there are; may be NULL. Buffer and sizes as in `portcullis_engine_error`.
 *
 * Undefined unless:
 * The array has as many texts as its count says, `buffer` has room for `size` bytes, `findings` is NULL or
 * points to room for a number.
 */
int32_t portcullis_engine_lint(const struct portcullis_engine *engine,
                               const struct portcullis_text *policies,
                               size_t policy_count,
                               uint8_t as_json,
                               char *buffer,
                               size_t size,
                               size_t *needed,
                               size_t *findings);

/**
 * Writes all connections, for `portcullis_engine_restore_connections` of the next process. 96 bytes each,
 * in blocks of 64 KiB; O(connections). Packets go on meanwhile, and what they change is written as it
 * was before or after: for a file that is exact call `portcullis_firewall_halt` first.
 *
 * Who can write the file can add connections that the policy would have allowed: keep it as private as
 * the policies, and replace it as a whole (a new file, synced, then renamed).
 *
 * `fd`: a descriptor to write to, blocking; it is the caller's, and not closed. Writing to a pipe that
 * nobody reads is a `SIGPIPE`, as ever. `saved`: how many; may be NULL. `PORTCULLIS_SYSTEM` if writing
 * failed: what was written so far is refused when it is read.
 *
 * Undefined unless:
 * `fd` is open until the call returns, `saved` is NULL or points to room for a number.
 */
int32_t portcullis_engine_save_connections(const struct portcullis_engine *engine,
                                           int fd,
                                           uint32_t *saved);

/**
 * Takes saved connections into the table, beside those that are there; the age of the file counts as
 * silence of each. Best after the first apply and before a firewall is started: packets that come before
 * are those of unknown connections.
 *
 * What was allowed before is not allowed for that: each connection is judged by the policy in force at
 * its next packet, in the direction in which it was opened (with `PORTCULLIS_KEEP` too;
 * `PORTCULLIS_CUT`: it is forgotten).
 *
 * `fd`: a descriptor to read from, blocking; it is the caller's, and not closed. May read further than
 * the end of the connections. `windows`: `PORTCULLIS_WINDOWS_...`. `out`: may be NULL.
 * `PORTCULLIS_BAD_FILE` if the file is none, of another version, damaged, from the future or too large:
 * nothing is taken from it then, the error text says why, and to start without it is right.
 *
 * Undefined unless:
 * `fd` is open until the call returns, `out` is NULL or points to a struct whose `struct_size` is set.
 */
int32_t portcullis_engine_restore_connections(const struct portcullis_engine *engine,
                                              int fd,
                                              uint8_t windows,
                                              struct portcullis_restored *out);

/**
 * Why a flow is decided as it is, for people: the tiers walked, the rule with file and line, near
 * misses. Buffer and sizes as in `portcullis_engine_error`.
 *
 * Undefined unless:
 * `flow` points to a flow, `buffer` has room for `size` bytes.
 */
int32_t portcullis_engine_explain(const struct portcullis_engine *engine,
                                  const struct portcullis_flow *flow,
                                  char *buffer,
                                  size_t size,
                                  size_t *needed);

/**
 * As `portcullis_engine_explain`, as a JSON object: what `portcullis explain --json` prints
 * (docs/policy.md).
 *
 * Undefined unless:
 * `flow` points to a flow, `buffer` has room for `size` bytes.
 */
int32_t portcullis_engine_explain_json(const struct portcullis_engine *engine,
                                       const struct portcullis_flow *flow,
                                       char *buffer,
                                       size_t size,
                                       size_t *needed);

/**
 * The rule of a judgement, as `policy direction file:line:column`; also if its policy is gone.
 * `PORTCULLIS_BAD_VALUE` if there is none. Buffer and sizes as in `portcullis_engine_error`.
 *
 * Undefined unless:
 * `buffer` has room for `size` bytes.
 */
int32_t portcullis_engine_rule(const struct portcullis_engine *engine,
                               uint32_t rule,
                               char *buffer,
                               size_t size,
                               size_t *needed);

/**
 * The rule of a judgement in parts; also if its policy is gone. `PORTCULLIS_BAD_VALUE` if there is none.
 *
 * `buffer`, `size`: room for its texts. `needed`: bytes needed; may be NULL. `PORTCULLIS_TOO_SMALL` if
 * they do not fit: `out` is not written then.
 *
 * Undefined unless:
 * `out` points to a struct whose `struct_size` is set, `buffer` has room for `size` bytes and is no part
 * of it.
 */
int32_t portcullis_engine_rule_info(const struct portcullis_engine *engine,
                                    uint32_t rule,
                                    struct portcullis_rule_info *out,
                                    char *buffer,
                                    size_t size,
                                    size_t *needed);

/**
 * Lists the connections that are open now, in no order. O(connections): a million take tens of
 * milliseconds, in which judging is a little slower.
 *
 * `connection_size`: `sizeof(portcullis_connection)`. `capacity`: room in `connections`; what is
 * beyond is left out. `count`: how many there are, which may be more by the next call.
 *
 * Undefined unless:
 * `connections` has room for `capacity` of that size, `count` points to room for a number.
 */
int32_t portcullis_engine_connections(const struct portcullis_engine *engine,
                                      struct portcullis_connection *connections,
                                      size_t connection_size,
                                      size_t capacity,
                                      size_t *count);

/**
 * The endpoint that owns an address now, as `namespace/name`; empty if none does. Buffer and sizes as
 * in `portcullis_engine_error`.
 *
 * Undefined unless:
 * `address` points to an address, `buffer` has room for `size` bytes.
 */
int32_t portcullis_engine_owner(const struct portcullis_engine *engine,
                                const struct portcullis_address *address,
                                char *buffer,
                                size_t size,
                                size_t *needed);

/**
 * The endpoints that there are now, by namespace and name, as a JSON array of objects with `namespace`,
 * `name`, `labels`, `service_account`, `node`, `host_network`, `ports` and `addresses`. O(endpoints). Buffer and sizes as in
 * `portcullis_engine_error`; there may be more by the next call.
 *
 * Undefined unless:
 * `buffer` has room for `size` bytes.
 */
int32_t portcullis_engine_endpoints_json(const struct portcullis_engine *engine,
                                         char *buffer,
                                         size_t size,
                                         size_t *needed);

/**
 * The addresses that an endpoint has now; `PORTCULLIS_BAD_VALUE` if there is none of this name.
 *
 * `capacity`: room in `addresses`; what is beyond is left out. `count`: how many it has.
 *
 * Undefined unless:
 * The names are NUL-terminated, `addresses` has room for `capacity` addresses, `count` points to room
 * for a number.
 */
int32_t portcullis_engine_addresses(const struct portcullis_engine *engine,
                                    const char *namespace_name,
                                    const char *name,
                                    struct portcullis_address *addresses,
                                    size_t capacity,
                                    size_t *count);

/**
 * How long the rounds of workers took since the start: the time that every packet of a round spends
 * in its worker.
 *
 * `bounds[n]`: the longest that `counts[n]` counts, in microseconds, which counts what is longer than
 * `bounds[n - 1]`; the last takes what is longer than all, and its bound is the highest number.
 * `capacity`: room in both; either may be NULL if it is 0. `count`: how many there are; may be NULL.
 * `sum`: all rounds together, in nanoseconds; may be NULL.
 *
 * Undefined unless:
 * `bounds` and `counts` have room for `capacity` numbers, `count` and `sum` for one each.
 */
int32_t portcullis_engine_rounds(const struct portcullis_engine *engine,
                                 uint64_t *bounds,
                                 uint64_t *counts,
                                 size_t capacity,
                                 size_t *count,
                                 uint64_t *sum);

/**
 * What was counted since the start.
 *
 * Undefined unless:
 * `out` points to totals whose `struct_size` is set.
 */
int32_t portcullis_engine_totals(const struct portcullis_engine *engine,
                                 struct portcullis_totals *out);

/**
 * Packets dropped since the start, by reason: `counts[n]` is that of reason `n`
 * (`portcullis_reason_name`).
 *
 * `capacity`: room in `counts`; reasons beyond are left out. `count`: how many reasons there are.
 *
 * Undefined unless:
 * `counts` has room for `capacity` numbers, `count` is NULL or points to room for one.
 */
int32_t portcullis_engine_drops(const struct portcullis_engine *engine,
                                uint64_t *counts,
                                size_t capacity,
                                size_t *count);

/**
 * Bytes of the packets dropped since the start, by reason, as `portcullis_engine_drops`.
 *
 * Undefined unless:
 * `counts` has room for `capacity` numbers, `count` is NULL or points to room for one.
 */
int32_t portcullis_engine_dropped_bytes(const struct portcullis_engine *engine,
                                        uint64_t *counts,
                                        size_t capacity,
                                        size_t *count);

/**
 * What each rule did since the start, over all workers and judges: rules that decided of a packet at
 * least.
 *
 * `rule_size`: `sizeof(portcullis_rule_totals)`. `capacity`: room in `rules`; what is beyond is left
 * out. `count`: how many there are, which may be more by the next call.
 *
 * Undefined unless:
 * `rules` has room for `capacity` of that size, `count` points to room for a number.
 */
int32_t portcullis_engine_rule_totals(const struct portcullis_engine *engine,
                                      struct portcullis_rule_totals *rules,
                                      size_t rule_size,
                                      size_t capacity,
                                      size_t *count);

/**
 * Starts workers and opens the interfaces, if settings name some, in the calling thread's network
 * namespace; forwards by what is in force on `engine`. Packets flow when this returns. If it fails nothing stays attached, and the
 * engine's error text says why.
 *
 * `out`: the firewall; stop and free it with `portcullis_firewall_stop`. Starts threads named
 * `portcullis` that block every signal which can be blocked with sense, so that the program's
 * handlers never run on them.
 *
 * Undefined unless:
 * `config` begins with its size, its texts are NUL-terminated; `out` points to room for a pointer.
 */
int32_t portcullis_firewall_start(const struct portcullis_engine *engine,
                                  const struct portcullis_firewall_config *config,
                                  struct portcullis_firewall **out);

/**
 * Stops the workers and waits until they have told everything, denials that they sum up included: what
 * is read from the engine afterwards, and the connections that are saved, are complete. From then on no
 * packet passes; `portcullis_firewall_stop` takes the programs off. Any thread; halting again is fine.
 */
int32_t portcullis_firewall_halt(const struct portcullis_firewall *firewall);

/**
 * Stops the workers, lets frames in transmission leave, takes the programs off the interfaces and
 * frees the firewall. NULL is fine; a firewall that was stopped already is `PORTCULLIS_BAD_HANDLE`.
 * Any thread.
 */
int32_t portcullis_firewall_stop(struct portcullis_firewall *firewall);

/**
 * The text of the last call on this firewall that failed with one; see `portcullis_engine_error`.
 *
 * Undefined unless:
 * `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
 */
int32_t portcullis_firewall_error(const struct portcullis_firewall *firewall,
                                  char *buffer,
                                  size_t size,
                                  size_t *needed);

/**
 * Why the preferred mode was not to be had; empty if it was. Buffer and sizes as in
 * `portcullis_engine_error`.
 *
 * Undefined unless:
 * `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
 */
int32_t portcullis_firewall_lesser_mode(const struct portcullis_firewall *firewall,
                                        char *buffer,
                                        size_t size,
                                        size_t *needed);

/**
 * One of the interfaces in use, and the mode it really has.
 *
 * `index`: from 0 on, wire by wire in the order in which they were added; `PORTCULLIS_BAD_VALUE`
 * beyond the last. Removing a wire moves those behind it.
 *
 * Undefined unless:
 * `out` points to a port whose `struct_size` is set.
 */
int32_t portcullis_firewall_port(const struct portcullis_firewall *firewall,
                                 size_t index,
                                 struct portcullis_port *out);

/**
 * What the kernel counted on the socket of each queue, since it was opened: the queues of the first
 * interface, then those of the next. One system call a socket.
 *
 * `socket_size`: `sizeof(portcullis_socket)`. `capacity`: room in `sockets`; what is beyond is left
 * out. `count`: how many there are.
 *
 * Undefined unless:
 * `sockets` has room for `capacity` sockets of that size, `count` points to room for a number.
 */
int32_t portcullis_firewall_sockets(const struct portcullis_firewall *firewall,
                                    struct portcullis_socket *sockets,
                                    size_t socket_size,
                                    size_t capacity,
                                    size_t *count);

/**
 * What the XDP program on each interface did with its packets, since it was attached. A system call
 * an interface.
 *
 * `program_size`: `sizeof(portcullis_program)`. `capacity`: room in `programs`; what is beyond is left
 * out. `count`: how many there are.
 *
 * Undefined unless:
 * `programs` has room for `capacity` of that size, `count` points to room for a number.
 */
int32_t portcullis_firewall_programs(const struct portcullis_firewall *firewall,
                                     struct portcullis_program *programs,
                                     size_t program_size,
                                     size_t capacity,
                                     size_t *count);

/**
 * Hands over which interfaces went down, came back or vanished since the last call (or the start), at
 * most `capacity`; the others wait for the next call. Only how it is now: nothing piles up if nobody
 * asks. Packets of an interface that comes back flow by themselves; a wire with an interface that
 * vanished is removed by this call, to be added again when the interface is back. No descriptor announces it: two
 * system calls an interface, so ask every second or so.
 *
 * `change_size`: `sizeof(portcullis_port_change)`. `count`: how many were written; fewer than
 * `capacity` means that no more wait. Any thread; each change goes to one of several callers.
 *
 * Undefined unless:
 * `changes` has room for `capacity` of that size, `count` points to room for a number.
 */
int32_t portcullis_firewall_port_changes(const struct portcullis_firewall *firewall,
                                         struct portcullis_port_change *changes,
                                         size_t change_size,
                                         size_t capacity,
                                         size_t *count);

/**
 * Opens the interfaces of a wire in the calling thread's network namespace and gives them to the
 * workers. Packets flow through it when this returns; those of other wires do not wait. Some
 * milliseconds. A wire of the same name, or with one of these interfaces, is replaced if it is of no
 * use any more because interfaces of it have vanished; else it is `PORTCULLIS_INTERFACE`. If it fails nothing has changed, and the
 * firewall's error text says why. Any thread; one wire after the other.
 *
 * Undefined unless:
 * `wire` begins with its size, its texts are NUL-terminated, `others` has as many as it says.
 */
int32_t portcullis_firewall_add_wire(const struct portcullis_firewall *firewall,
                                     const struct portcullis_wire *wire);

/**
 * Takes a wire out, by its name: waits a short while for frames in transmission, takes the programs
 * off its interfaces and gives back all memory. Its connections stay until they time out. Some
 * milliseconds; other wires do not wait. `PORTCULLIS_NO_SUCH_WIRE` if there is none. Any thread.
 *
 * Undefined unless:
 * `name` is NUL-terminated.
 */
int32_t portcullis_firewall_remove_wire(const struct portcullis_firewall *firewall,
                                        const char *name);

/**
 * The names of the wires, a line each, in the order in which they were added. Buffer and sizes as in
 * `portcullis_engine_error`.
 *
 * Undefined unless:
 * `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
 */
int32_t portcullis_firewall_wires(const struct portcullis_firewall *firewall,
                                  char *buffer,
                                  size_t size,
                                  size_t *needed);

/**
 * Makes the kernel drop packets from exactly these prefixes, on all interfaces and in either
 * direction, before any worker sees them: no policy, no record, only a count (`early_dropped` of
 * `portcullis_firewall_programs`). For floods, and for feeds that no policy excepts; what policies are
 * to see belongs into a set. Wires that are added later drop them too.
 *
 * Needs `early_drop_capacity` of the firewall's settings; `PORTCULLIS_INTERFACE`, and nothing is
 * changed, if they are more. A system call for each prefix that is there or comes, on each interface.
 * Any thread.
 *
 * Undefined unless:
 * `prefixes` has `count` prefixes.
 */
int32_t portcullis_firewall_replace_early_drop(const struct portcullis_firewall *firewall,
                                               const struct portcullis_prefix *prefixes,
                                               size_t count);

/**
 * Where the last panic inside the library was and what it said, of whatever engine or worker thread:
 * for a report to the project. Empty if there was none. Nothing of it is printed.
 *
 * `buffer`, `size`, `needed`: as in `portcullis_engine_error`. Any thread.
 *
 * Undefined unless:
 * `buffer` has room for `size` bytes, `needed` is NULL or points to room for a number.
 */
int32_t portcullis_last_panic(char *buffer,
                              size_t size,
                              size_t *needed);

/**
 * What a status means, as static NUL-terminated text; unknown numbers have a text too.
 *
 * Never fails; any thread; the caller must not free the text.
 */
const char *portcullis_status_text(int32_t status);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* PORTCULLIS_H */
