package portcullis

/*
#include "bridge.h"
*/
import "C"

// Totals are numbers since the start, over all workers and judges.
type Totals struct {
	Received       uint64 // packets received, or handed to a judge
	ReceivedBytes  uint64 // bytes of these, from the Ethernet header on
	Forwarded      uint64 // packets forwarded, or allowed by a judge
	ForwardedBytes uint64 // bytes of these
	Dropped        uint64 // packets dropped, for whatever reason
	// Drops tells them apart; reasons without a packet are left out.
	Drops         map[Reason]uint64
	Opened        uint64 // connections opened
	Ended         uint64 // connections that ended
	Connections   uint64 // connections now
	EventsWaiting uint64 // events that wait to be read
	EventsLost    uint64 // events that did not fit and were not reported
}

// Totals is what was counted since the start.
func (e *Engine) Totals() (Totals, error) {
	t := C.portcullis_totals{struct_size: C.sizeof_portcullis_totals}
	var counts [256]C.uint64_t
	var reasons C.size_t
	err := e.call("Totals", func(handle C.uintptr_t) C.int32_t {
		if status := C.bridge_engine_totals(handle, &t); status != C.PORTCULLIS_OK {
			return status
		}
		return C.bridge_engine_drops(handle, &counts[0], C.size_t(len(counts)), &reasons)
	})
	if err != nil {
		return Totals{}, err
	}
	drops := make(map[Reason]uint64)
	for reason, count := range counts[:min(int(reasons), len(counts))] {
		if count > 0 {
			drops[Reason(reason)] = uint64(count)
		}
	}
	return Totals{
		Received:       uint64(t.received),
		ReceivedBytes:  uint64(t.received_bytes),
		Forwarded:      uint64(t.forwarded),
		ForwardedBytes: uint64(t.forwarded_bytes),
		Dropped:        uint64(t.dropped),
		Drops:          drops,
		Opened:         uint64(t.opened),
		Ended:          uint64(t.ended),
		Connections:    uint64(t.connections),
		EventsWaiting:  uint64(t.events_waiting),
		EventsLost:     uint64(t.events_lost),
	}, nil
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}
