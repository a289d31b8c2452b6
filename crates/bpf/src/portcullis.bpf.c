// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
//
// The XDP program of portcullis. It judges nothing: it hands every packet to the AF_XDP socket of
// the queue it came in on, as long as userspace is alive. When it is not (no socket, or no
// heartbeat), the failure mode decides. One loaded instance serves many ports, told apart by interface:
// every further program that the kernel gets to run makes it wait for all CPUs once, every further
// interface of a program that it has does not.
//
// Two entry points share one body. `portcullis` is what ordinary MTUs get, since every driver with
// XDP can run it. `portcullis_frags` accepts packets of several buffers, which jumbo MTUs need and
// not every driver can. A third program, `portcullis_bypass`, sits behind them on wires without a
// kernel bridge beneath: what they pass it sends out of the other port.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// Where a packet went. The order is a contract with counters.rs.
enum verdict {
	TO_SOCKET,     // handed to the socket of its queue
	MISS_DROPPED,  // no socket on its queue, failure mode closed
	MISS_PASSED,   // no socket on its queue, failure mode open
	STALE_DROPPED, // userspace stalled, failure mode closed
	STALE_PASSED,  // userspace stalled, failure mode open
	EARLY_DROPPED, // source address in the early-drop set
	VERDICTS,
};

// What a packet was, as far as this program looks. The order is a contract with counters.rs.
enum kind {
	KIND_IPV4,
	KIND_IPV6,
	KIND_ARP,
	KIND_OTHER, // any other EtherType, or a frame too short for its headers
	KINDS,
};

struct count {
	__u64 packets;
	__u64 bytes;
};

// What userspace says of a queue. One cache line, so that workers that write neighbouring beats do not
// disturb each other.
struct beat {
	__u64 ns;	 // CLOCK_MONOTONIC
	__u64 exclusive; // not 0: no two CPUs ever run the program for it at once
	__u64 pad[6];
};

// The queues of a port that came after it was opened.
#define OTHER_QUEUES 0xffffffffu

struct queue_key {
	__u32 interface; // in the one network namespace that an instance serves
	__u32 queue;
};

// What a queue has of the maps below, and what was counted on it. One copy for all CPUs: a copy for
// each would take hundreds of times as much of a large machine, and the CPU that has the queue's
// packets has its counts in its cache as well.
struct queue {
	__u32 slot; // OTHER_QUEUES: none
	__u32 pad;
	struct count counts[VERDICTS * KINDS];
};

struct ipv4_key {
	__u32 prefix_len;
	__u8 address[4];
};

struct ipv6_key {
	__u32 prefix_len;
	__u8 address[16];
};

// Settings, fixed when the program is loaded: the verifier removes the branches not taken.
const volatile __u32 failure_open = 0;
const volatile __u32 early_drop = 0;
const volatile __u64 stale_after_ns = 500 * 1000 * 1000;
const volatile __u32 bypass_interface = 0; // the other port of a wire

// Memory is taken when a port comes. Then only, and by userspace.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); // the loader sets the number of queues
	__type(key, struct queue_key);
	__type(value, struct queue);
} queues SEC(".maps");

// A slot for each queue of each port.
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1); // the loader sets the number of slots
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); // the loader sets the number of slots
	__type(key, __u32);
	__type(value, struct beat);
} beats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); // the loader sets the size of the early-drop set
	__type(key, struct ipv4_key);
	__type(value, __u8);
} early_drop_ipv4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1); // the loader sets the size of the early-drop set
	__type(key, struct ipv6_key);
	__type(value, __u8);
} early_drop_ipv6 SEC(".maps");

struct vlan_header {
	__be16 tag;
	__be16 next;
};

// The kind of a packet, and where its IP header starts (0: none).
static __always_inline enum kind parse(void *data, void *end, __u32 *ip_offset)
{
	struct ethhdr *ethernet = data;
	__u32 offset = sizeof(*ethernet);
	__be16 next;

	*ip_offset = 0;
	if ((void *)(ethernet + 1) > end)
		return KIND_OTHER;
	next = ethernet->h_proto;
#pragma unroll
	for (int tags = 0; tags < 2; tags++) {
		struct vlan_header *vlan = data + offset;

		if (next != bpf_htons(ETH_P_8021Q) && next != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(vlan + 1) > end)
			return KIND_OTHER;
		next = vlan->next;
		offset += sizeof(*vlan);
	}
	if (next == bpf_htons(ETH_P_ARP))
		return KIND_ARP;
	if (next == bpf_htons(ETH_P_IP)) {
		if (data + offset + sizeof(struct iphdr) > end)
			return KIND_OTHER;
		*ip_offset = offset;
		return KIND_IPV4;
	}
	if (next == bpf_htons(ETH_P_IPV6)) {
		if (data + offset + sizeof(struct ipv6hdr) > end)
			return KIND_OTHER;
		*ip_offset = offset;
		return KIND_IPV6;
	}
	return KIND_OTHER;
}

static __always_inline int in_early_drop_set(void *data, void *end, enum kind kind, __u32 offset)
{
	if (kind == KIND_IPV4) {
		struct iphdr *ip = data + offset;
		struct ipv4_key key = { .prefix_len = 32 };

		if ((void *)(ip + 1) > end)
			return 0;
		__builtin_memcpy(key.address, &ip->saddr, sizeof(key.address));
		return bpf_map_lookup_elem(&early_drop_ipv4, &key) != 0;
	}
	if (kind == KIND_IPV6) {
		struct ipv6hdr *ip = data + offset;
		struct ipv6_key key = { .prefix_len = 128 };

		if ((void *)(ip + 1) > end)
			return 0;
		__builtin_memcpy(key.address, &ip->saddr, sizeof(key.address));
		return bpf_map_lookup_elem(&early_drop_ipv6, &key) != 0;
	}
	return 0;
}

// Drivers run the program for a queue on one CPU at a time: there plain additions do, which take 7 ns
// less. The stack does not, nor does tun.
static __always_inline void count(struct queue *queue, struct beat *beat, enum verdict verdict,
				  enum kind kind, __u64 bytes)
{
	__u32 n = verdict * KINDS + kind;

	if (!queue || n >= VERDICTS * KINDS)
		return;
	if (beat && *(volatile __u64 *)&beat->exclusive) {
		queue->counts[n].packets += 1;
		queue->counts[n].bytes += bytes;
	} else {
		__sync_fetch_and_add(&queue->counts[n].packets, 1);
		__sync_fetch_and_add(&queue->counts[n].bytes, bytes);
	}
}

static __always_inline struct queue *find_queue(struct xdp_md *ctx)
{
	struct queue_key key = { .interface = ctx->ingress_ifindex, .queue = ctx->rx_queue_index };
	struct queue *queue = bpf_map_lookup_elem(&queues, &key);

	if (queue)
		return queue;
	key.queue = OTHER_QUEUES;
	return bpf_map_lookup_elem(&queues, &key);
}

static __always_inline int userspace_is_alive(struct beat *beat)
{
	__s64 age;

	if (!beat)
		return 0;
	// Signed: userspace may have written its beat after this CPU read its clock.
	age = bpf_ktime_get_coarse_ns() - *(volatile __u64 *)&beat->ns;
	return age < (__s64)stale_after_ns;
}

static __always_inline int steer(struct xdp_md *ctx, __u64 bytes)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	int failure_action = failure_open ? XDP_PASS : XDP_DROP;
	struct queue *queue = find_queue(ctx);
	__u32 slot = queue ? queue->slot : OTHER_QUEUES;
	struct beat *beat = bpf_map_lookup_elem(&beats, &slot);
	__u32 ip_offset;
	enum kind kind = parse(data, end, &ip_offset);
	int action;

	if (early_drop && in_early_drop_set(data, end, kind, ip_offset)) {
		count(queue, beat, EARLY_DROPPED, kind, bytes);
		return XDP_DROP;
	}
	// Pinned, and let go of by userspace: nobody reads its counts any more.
	if (!queue)
		return failure_action;
	if (!userspace_is_alive(beat)) {
		count(queue, beat, failure_open ? STALE_PASSED : STALE_DROPPED, kind, bytes);
		return failure_action;
	}
	// Should the slot be another port's by now, the kernel drops the packet: a socket takes packets
	// of the queue that it is bound to alone.
	action = bpf_redirect_map(&sockets, slot, failure_action);
	if (action == XDP_REDIRECT)
		count(queue, beat, TO_SOCKET, kind, bytes);
	else
		count(queue, beat, failure_open ? MISS_PASSED : MISS_DROPPED, kind, bytes);
	return action;
}

SEC("xdp")
int portcullis(struct xdp_md *ctx)
{
	return steer(ctx, ctx->data_end - ctx->data);
}

SEC("xdp.frags")
int portcullis_frags(struct xdp_md *ctx)
{
	return steer(ctx, bpf_xdp_get_buff_len(ctx));
}

// Packets get here only when the XDP program passed them, which it does in failure mode open alone.
// Not an XDP redirect: a veth drops those unless its peer runs NAPI, which nobody can count on.
SEC("tc")
int portcullis_bypass(struct __sk_buff *skb)
{
	(void)skb;
	return bpf_redirect(bypass_interface, 0);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
