package portcullis

/*
#include "bridge.h"
*/
import "C"

import (
	"math"
	"time"
)

// Totals are numbers since the start, over all workers and judges.
type Totals struct {
	Received       uint64 // packets received, or handed to a judge
	ReceivedBytes  uint64 // bytes of these, from the Ethernet header on
	Forwarded      uint64 // packets forwarded, or allowed by a judge
	ForwardedBytes uint64 // bytes of these
	Dropped        uint64 // packets dropped, for whatever reason
	// Drops tells them apart; reasons without a packet are left out.
	Drops map[Reason]uint64
	// DroppedBytes are those of Drops.
	DroppedBytes  map[Reason]uint64
	Opened        uint64 // connections opened
	Ended         uint64 // connections that ended
	Connections   uint64 // connections now
	EventsWaiting uint64 // events that wait to be read
	EventsLost    uint64 // events that did not fit and were not reported
	// ChecksumsCompleted are packets whose unfinished checksum was completed.
	ChecksumsCompleted uint64
	RejectsSent        uint64 // answers sent to senders of rejected packets
	HalfOpen           uint64 // of Connections, TCP connections whose handshake is not finished
	Capacity           uint64 // connections that there is room for
	Evicted            uint64 // connections that had to go because there was no more room
	Staged             uint64 // new connections and denied packets that staged policies judged too
	StagedAllows       uint64 // of these, denied now and allowed by the staged policies
	StagedDenies       uint64 // of these, allowed now and denied by the staged policies
	// Copied are copies that switches made of packets for several interfaces: packets received and copied
	// are forwarded or dropped.
	Copied     uint64
	Mirrored   uint64 // copies sent to the mirror port
	MirrorLost uint64 // copies left out because the mirror port could not keep up
	// LostByKind is EventsLost by what happened: opened, dropped (packets), ended, changed, passed alone.
	LostByKind [5]uint64
}

// OtherRules is the [RuleTotals.Rule] of what is counted for several rules together, because there are
// so many.
const OtherRules uint32 = C.PORTCULLIS_OTHER_RULES

// RuleTotals are what one rule let pass and refused since the start.
type RuleTotals struct {
	Rule         uint32 // for [Engine.Rule]; NoRule for packets of which none decided; or OtherRules
	Passed       uint64 // packets
	PassedBytes  uint64
	Refused      uint64 // packets
	RefusedBytes uint64
}

// Rounds say how long the rounds of workers took since the start: the time that every packet of a
// round spends in its worker.
type Rounds struct {
	// Bounds are the longest that Counts count, each what is longer than the bound before it; the last
	// has no bound, and is the longest duration there is.
	Bounds []time.Duration
	Counts []uint64
	// Sum is all rounds together.
	Sum time.Duration
}

// Totals is what was counted since the start.
func (e *Engine) Totals() (Totals, error) {
	t := C.portcullis_totals{struct_size: C.sizeof_portcullis_totals}
	var counts, bytes [256]C.uint64_t
	var reasons C.size_t
	err := e.call("Totals", func(handle C.uintptr_t) C.int32_t {
		if status := C.bridge_engine_totals(handle, &t); status != C.PORTCULLIS_OK {
			return status
		}
		if status := C.bridge_engine_dropped_bytes(handle, &bytes[0], C.size_t(len(bytes)), &reasons); status != C.PORTCULLIS_OK {
			return status
		}
		return C.bridge_engine_drops(handle, &counts[0], C.size_t(len(counts)), &reasons)
	})
	if err != nil {
		return Totals{}, err
	}
	drops, droppedBytes := make(map[Reason]uint64), make(map[Reason]uint64)
	for reason, count := range counts[:min(int(reasons), len(counts))] {
		if count > 0 {
			drops[Reason(reason)] = uint64(count)
			droppedBytes[Reason(reason)] = uint64(bytes[reason])
		}
	}
	var lostByKind [5]uint64
	for kind := range lostByKind {
		lostByKind[kind] = uint64(t.events_lost_by_kind[kind])
	}
	return Totals{
		Received:       uint64(t.received),
		ReceivedBytes:  uint64(t.received_bytes),
		Forwarded:      uint64(t.forwarded),
		ForwardedBytes: uint64(t.forwarded_bytes),
		Dropped:        uint64(t.dropped),
		Drops:          drops,
		DroppedBytes:   droppedBytes,
		Opened:         uint64(t.opened),
		Ended:          uint64(t.ended),
		Connections:    uint64(t.connections),
		EventsWaiting:  uint64(t.events_waiting),
		EventsLost:     uint64(t.events_lost),

		ChecksumsCompleted: uint64(t.checksums_completed),
		RejectsSent:        uint64(t.rejects_sent),
		HalfOpen:           uint64(t.half_open),
		Capacity:           uint64(t.capacity),
		Evicted:            uint64(t.evicted),
		Staged:             uint64(t.staged),
		StagedAllows:       uint64(t.staged_allows),
		StagedDenies:       uint64(t.staged_denies),
		Copied:             uint64(t.copied),
		Mirrored:           uint64(t.mirrored),
		MirrorLost:         uint64(t.mirror_lost),
		LostByKind:         lostByKind,
	}, nil
}

// RuleTotals is what each rule did since the start: rules that decided of a packet at least.
func (e *Engine) RuleTotals() ([]RuleTotals, error) {
	var list []C.portcullis_rule_totals
	err := all(func(capacity int) (int, error) {
		list = make([]C.portcullis_rule_totals, capacity+1) // one more, so that there is a first
		var count C.size_t
		err := e.call("RuleTotals", func(handle C.uintptr_t) C.int32_t {
			return C.bridge_engine_rule_totals(handle, &list[0], C.size_t(capacity), &count)
		})
		list = list[:min(int(count), capacity)]
		return int(count), err
	})
	totals := make([]RuleTotals, len(list))
	for n, t := range list {
		totals[n] = RuleTotals{
			Rule:         uint32(t.rule),
			Passed:       uint64(t.passed),
			PassedBytes:  uint64(t.passed_bytes),
			Refused:      uint64(t.refused),
			RefusedBytes: uint64(t.refused_bytes),
		}
	}
	return totals, err
}

// Rounds is how long the rounds of workers took since the start.
func (e *Engine) Rounds() (Rounds, error) {
	var bounds, counts [64]C.uint64_t
	var count C.size_t
	var sum C.uint64_t
	err := e.call("Rounds", func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_rounds(handle, &bounds[0], &counts[0], C.size_t(len(bounds)), &count, &sum)
	})
	rounds := Rounds{Sum: time.Duration(sum)}
	for n := 0; n < min(int(count), len(bounds)); n++ {
		bound := time.Duration(math.MaxInt64)
		if uint64(bounds[n]) < uint64(bound/time.Microsecond) {
			bound = time.Duration(bounds[n]) * time.Microsecond
		}
		rounds.Bounds = append(rounds.Bounds, bound)
		rounds.Counts = append(rounds.Counts, uint64(counts[n]))
	}
	return rounds, err
}

// all calls with more and more room until there is enough.
func all(call func(capacity int) (int, error)) error {
	for capacity := 256; ; {
		count, err := call(capacity)
		if err != nil || count <= capacity {
			return err
		}
		capacity = count + count/4 // it may have grown by the next call
	}
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}
