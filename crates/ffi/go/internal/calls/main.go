// Calls measures what judging through Go costs over judging through C: the same library judges the
// same packets by the same policies, in turns, called by a loop in C and by a loop in Go.
//
//	crates/ffi/go/calls [sets]
//
// With `sets`, what applying a million CIDRs and replacing them by others takes.
//
// One line of JSON for each packet size and batch size. The thread's own CPU time, medians of paired
// rounds.
package main

/*
#cgo pkg-config: portcullis
#include <portcullis.h>
#include <stdlib.h>
#include <time.h>

static double cpu_time(void) {
	struct timespec time;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

static portcullis_judge *new_judge(const char *cluster, size_t cluster_len, const char *policies,
                                   size_t policies_len) {
	portcullis_text c = {"cluster", (const uint8_t *)cluster, cluster_len};
	portcullis_text p = {"policies", (const uint8_t *)policies, policies_len};
	portcullis_engine *engine = NULL;
	portcullis_judge *judge = NULL;
	if (portcullis_engine_new(NULL, &engine) || portcullis_engine_apply(engine, &c, 1, &p, 1, NULL) ||
	    portcullis_judge_new(engine, &judge))
		abort();
	return judge;
}

// Replaces a set; answers the seconds that took.
static double replace_set(portcullis_engine *engine, const portcullis_prefix *prefixes, size_t count) {
	struct timespec start, end;
	clock_gettime(CLOCK_MONOTONIC, &start);
	if (portcullis_engine_replace_set(engine, "GlobalNetworkSet//feed", prefixes, count))
		abort();
	clock_gettime(CLOCK_MONOTONIC, &end);
	return end.tv_sec - start.tv_sec + (end.tv_nsec - start.tv_nsec) / 1e9;
}

// Applies documents to a new engine; answers the seconds that took.
static double apply_documents(portcullis_engine **engine, const char *policies, size_t len) {
	portcullis_text p = {"feed", (const uint8_t *)policies, len};
	struct timespec start, end;
	if (portcullis_engine_new(NULL, engine))
		abort();
	clock_gettime(CLOCK_MONOTONIC, &start);
	if (portcullis_engine_apply(*engine, NULL, 0, &p, 1, NULL))
		abort();
	clock_gettime(CLOCK_MONOTONIC, &end);
	return end.tv_sec - start.tv_sec + (end.tv_nsec - start.tv_nsec) / 1e9;
}

// Judges all frames, each `size` bytes, `times` times; answers how many packets did not pass.
static size_t judge_all(portcullis_judge *judge, const uint8_t *frames, size_t size, size_t count,
                        size_t batch, size_t times) {
	static portcullis_packet packets[256];
	static portcullis_judgement out[256];
	size_t denied = 0, at, n;
	while (times--)
		for (at = 0; at < count; at += batch) {
			size_t now = count - at < batch ? count - at : batch;
			for (n = 0; n < now; n++) {
				packets[n].data = frames + (at + n) * size;
				packets[n].len = size;
				packets[n].wire_len = size;
			}
			if (portcullis_judge_packets(judge, 0, packets, now, out))
				abort();
			for (n = 0; n < now; n++)
				denied += out[n].verdict != PORTCULLIS_ALLOW;
		}
	return denied;
}
*/
import "C"

import (
	"encoding/binary"
	"fmt"
	"log"
	"net/netip"
	"os"
	"runtime"
	"sort"
	"strings"
	"time"
	"unsafe"

	"portcullis"
)

const cluster = `
{apiVersion: v1, kind: Pod, metadata: {name: web, labels: {app: web}}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, labels: {app: db}}, status: {podIP: 10.0.0.2}}
`

const policies = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-to-db}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]
`

const (
	connections = 4096 // that the packets belong to
	rounds      = 41
	times       = 64 // all packets are judged in a round
)

func main() {
	log.SetFlags(0)
	runtime.LockOSThread()
	if len(os.Args) > 1 && os.Args[1] == "sets" {
		measureSets()
		return
	}
	for _, size := range []int{64, 1500} {
		measure(size)
	}
}

// measureSets applies a million CIDRs as a document, and replaces them by another million, through C
// and through Go in turns.
func measureSets() {
	const count, rounds = 1_000_000, 5
	var feeds [2][]netip.Prefix
	var inC [2]*C.portcullis_prefix
	for n := range feeds {
		feeds[n] = prefixes(count, uint32(n))
		start := (*C.portcullis_prefix)(C.calloc(count, C.sizeof_portcullis_prefix))
		for i, prefix := range feeds[n] {
			c := &unsafe.Slice(start, count)[i]
			c.address.family, c.length = 4, C.uint8_t(prefix.Bits())
			for b, value := range prefix.Addr().As4() {
				c.address.bytes[b] = C.uint8_t(value)
			}
		}
		inC[n] = start
	}
	var text strings.Builder
	text.WriteString("{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {name: feed, labels: {kind: threat}}, spec: {nets: [\n")
	for _, prefix := range feeds[0] {
		text.WriteString(prefix.String() + ",\n")
	}
	text.WriteString("]}}\n---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: drop-threats}\n" +
		"spec: {selector: all(), types: [Ingress], ingress: [{action: Deny, source: {selector: \"kind == 'threat'\"}}, {action: Allow}]}\n")
	document := []byte(text.String())
	shared := (*C.char)(C.CBytes(document))
	var applied, replaced [2][]float64
	for round := 0; round < rounds; round++ {
		var peer *C.portcullis_engine
		applied[0] = append(applied[0], float64(C.apply_documents(&peer, shared, C.size_t(len(document)))))
		for n := range inC {
			replaced[0] = append(replaced[0], float64(C.replace_set(peer, inC[1-n], count)))
		}
		C.portcullis_engine_free(peer)

		engine, err := portcullis.New(portcullis.Config{})
		must(err)
		start := time.Now()
		_, err = engine.Apply(nil, []portcullis.Document{{Name: "feed", Data: document}})
		must(err)
		applied[1] = append(applied[1], time.Since(start).Seconds())
		for n := range feeds {
			start = time.Now()
			must(engine.ReplaceSet("GlobalNetworkSet//feed", feeds[1-n]))
			replaced[1] = append(replaced[1], time.Since(start).Seconds())
		}
		must(engine.Close())
	}
	fmt.Printf(`{"cidrs":%d,"c_apply_s":%.3f,"go_apply_s":%.3f,"c_replace_s":%.3f,"go_replace_s":%.3f}`+"\n",
		count, median(applied[0]), median(applied[1]), median(replaced[0]), median(replaced[1]))
}

// prefixes are all different: /24 to /32, as feeds are.
func prefixes(count int, seed uint32) []netip.Prefix {
	known := make(map[netip.Prefix]bool, count)
	list := make([]netip.Prefix, 0, count)
	for state := 2*seed + 1; len(list) < count; {
		state = state*1664525 + 1013904223
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], state)
		prefix := netip.PrefixFrom(netip.AddrFrom4(a), 24+int(state>>7)%9).Masked()
		if !known[prefix] {
			known[prefix] = true
			list = append(list, prefix)
		}
	}
	return list
}

func measure(size int) {
	engine, err := portcullis.New(portcullis.Config{})
	must(err)
	defer engine.Close()
	_, err = engine.Apply([]portcullis.Document{{Name: "cluster", Data: []byte(cluster)}},
		[]portcullis.Document{{Name: "policies", Data: []byte(policies)}})
	must(err)
	judge, err := engine.NewJudge()
	must(err)
	defer judge.Close()
	c, p := C.CString(cluster), C.CString(policies)
	peer := C.new_judge(c, C.size_t(len(cluster)), p, C.size_t(len(policies)))

	flat := make([]byte, size*connections)
	memory := (*C.uint8_t)(C.CBytes(flat))
	shared := unsafe.Slice((*byte)(unsafe.Pointer(memory)), len(flat))
	packets, frames := make([][]byte, connections), make([]portcullis.Frame, connections)
	for n := range packets {
		packets[n] = flat[n*size : (n+1)*size]
		frames[n] = portcullis.Frame{Offset: uint32(n * size), Length: uint32(size)}
	}
	out := make([]portcullis.Judgement, 256)

	inC := func(batch, times int) {
		if C.judge_all(peer, memory, C.size_t(size), connections, C.size_t(batch), C.size_t(times)) != 0 {
			log.Fatal("C: a packet did not pass")
		}
	}
	inGo := func(batch, times int, call func(from, to int) error) {
		for ; times > 0; times-- {
			for at := 0; at < connections; at += batch {
				must(call(at, at+batch))
				for n := range out[:batch] {
					if out[n].Verdict != portcullis.Allow {
						log.Fatal("Go: a packet did not pass")
					}
				}
			}
		}
	}
	copied := func(from, to int) error { return judge.Packets(packets[from:to], out) }
	buffer := func(from, to int) error { return judge.Buffer(flat, frames[from:to], out) }

	for _, flags := range []byte{syn, synAck, ack} {
		for n, packet := range packets {
			frame(packet, n, flags)
		}
		copy(shared, flat)
		inC(256, 1)
		inGo(256, 1, copied)
	}
	for _, batch := range []int{1, 32, 256} {
		var c, goes, buffers, ratio, bufferRatio []float64
		for round := 0; round <= rounds; round++ {
			a := timed(func() { inC(batch, times) })
			b := timed(func() { inGo(batch, times, copied) })
			d := timed(func() { inGo(batch, times, buffer) })
			if round == 0 {
				continue // warms up
			}
			c, goes, buffers = append(c, a), append(goes, b), append(buffers, d)
			ratio, bufferRatio = append(ratio, b/a), append(bufferRatio, d/a)
		}
		fmt.Printf(`{"bytes":%d,"batch":%d,"c_ns":%.1f,"go_packets_ns":%.1f,"ratio":%.3f,"go_buffer_ns":%.1f,"buffer_ratio":%.3f}`+"\n",
			size, batch, median(c), median(goes), median(ratio), median(buffers), median(bufferRatio))
	}
}

// timed is nanoseconds a packet.
func timed(run func()) float64 {
	start := float64(C.cpu_time())
	run()
	return (float64(C.cpu_time()) - start) / (connections * times)
}

func median(values []float64) float64 {
	sort.Float64s(values)
	return values[len(values)/2]
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

const syn, synAck, ack = 2, 0x12, 0x10

// frame writes a TCP segment of connection n over a packet. A SYN-ACK comes from the other side.
func frame(packet []byte, n int, flags byte) {
	for i := range packet {
		packet[i] = 0
	}
	web, db := []byte{10, 0, 0, 1}, []byte{10, 0, 0, 2}
	from, to, fromPort, toPort := web, db, uint16(1024+n), uint16(5432)
	if flags == synAck {
		from, to, fromPort, toPort = db, web, toPort, fromPort
	}
	length := len(packet) - 14
	if flags != ack {
		length = 40 // what follows is padding
	}
	packet[12], packet[14], packet[22], packet[23] = 8, 0x45, 64, 6
	binary.BigEndian.PutUint16(packet[16:], uint16(length))
	copy(packet[26:], from)
	copy(packet[30:], to)
	binary.BigEndian.PutUint16(packet[34:], fromPort)
	binary.BigEndian.PutUint16(packet[36:], toPort)
	seq := uint32(100)
	if flags == ack {
		seq++
	}
	binary.BigEndian.PutUint32(packet[38:], seq)
	binary.BigEndian.PutUint32(packet[42:], 101)
	packet[46], packet[47], packet[48], packet[49] = 0x50, flags, 0xff, 0xff
}
