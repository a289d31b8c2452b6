package portcullis

/*
#include "bridge.h"
*/
import "C"

import (
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"
)

// CaptureFilter says which packets a capture wants; all conditions must hold. The zero value is all of
// every packet.
type CaptureFilter struct {
	Verdicts  []Verdict    // only packets with one of these; empty is any
	Reasons   []Reason     // only packets dropped for one of these; empty is any, and packets that passed
	Addresses []netip.Addr // only IP packets from or to one of these; empty is any
	Snap      uint32       // bytes of each packet at most; 0 is as many as can be: 9216
}

// Captured is a packet that was copied.
type Captured struct {
	Time      time.Time
	Interface string // that received it
	Data      []byte // its first bytes, from the Ethernet header on
	Wire      int    // bytes of the whole frame
	Judgement Judgement
}

// Capture copies packets that the workers of an engine's firewalls receive. Methods may be called by
// any goroutines.
type Capture struct{ handle atomic.Uintptr }

// NewCapture begins a capture; nothing is copied before [Capture.Allow]. At most 8 at a time
// ([System]). Packets of judges are not captured: their caller has them.
func (e *Engine) NewCapture(filter CaptureFilter) (*Capture, error) {
	var a arena
	defer a.free()
	wanted, err := a.filter("NewCapture", filter)
	if err != nil {
		return nil, err
	}
	var out C.uintptr_t
	err = e.do("NewCapture", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_capture_new(handle, wanted, &out)
	})
	if err != nil {
		return nil, err
	}
	c := &Capture{}
	c.handle.Store(uintptr(out))
	runtime.SetFinalizer(c, (*Capture).Close)
	return c, nil
}

// Close ends the capture. Closing again does nothing.
func (c *Capture) Close() error {
	handle := c.handle.Swap(0)
	if handle == 0 {
		return nil
	}
	runtime.SetFinalizer(c, nil)
	return check("Close", Status(C.bridge_capture_free(C.uintptr_t(handle))))
}

// SetFilter changes what is captured from now on.
func (c *Capture) SetFilter(filter CaptureFilter) error {
	var a arena
	defer a.free()
	wanted, err := a.filter("SetFilter", filter)
	if err != nil {
		return err
	}
	return c.call("SetFilter", func(handle C.uintptr_t) C.int32_t {
		return C.bridge_capture_set_filter(handle, wanted)
	})
}

// Allow lets workers copy up to so many packets from now on; what was allowed before and not used is
// gone. Called in regular steps it bounds the rate.
func (c *Capture) Allow(packets uint32) error {
	return c.call("Allow", func(handle C.uintptr_t) C.int32_t {
		return C.bridge_capture_allow(handle, C.uint32_t(packets))
	})
}

// Packets hands over what was copied since the last call, those of one worker in their order. Some
// 4 MiB wait for each worker and each capture: call it often.
func (c *Capture) Packets() ([]Captured, error) {
	const atOnce, room = 64, 64 << 10
	var a arena
	defer a.free()
	list := (*C.portcullis_captured)(a.alloc(atOnce, C.sizeof_portcullis_captured))
	bytes := (*C.uint8_t)(a.alloc(room, 1))
	var packets []Captured
	for {
		var count, waiting C.size_t
		err := c.call("Packets", func(handle C.uintptr_t) C.int32_t {
			return C.bridge_capture_packets(handle, list, atOnce, bytes, room, &count, &waiting)
		})
		if err != nil {
			return packets, err
		}
		for _, packet := range unsafe.Slice(list, int(count)) {
			packets = append(packets, Captured{
				Time:      time.Unix(0, int64(packet.time)),
				Interface: C.GoString((*C.char)(unsafe.Pointer(&packet.interface_name))),
				Data:      C.GoBytes(unsafe.Pointer(packet.data), C.int(packet.len)),
				Wire:      int(packet.wire_len),
				Judgement: *(*Judgement)(unsafe.Pointer(&packet.judgement)),
			})
		}
		if waiting == 0 || count == 0 {
			return packets, nil
		}
	}
}

// Lost are packets that the filter wanted and that are not to be had: lost because they did not fit, and
// those beyond what [Capture.Allow] allowed.
func (c *Capture) Lost() (lost, overBudget uint64, err error) {
	var l, o C.uint64_t
	err = c.call("Lost", func(handle C.uintptr_t) C.int32_t {
		return C.bridge_capture_lost(handle, &l, &o)
	})
	return uint64(l), uint64(o), err
}

func (c *Capture) call(op string, run func(C.uintptr_t) C.int32_t) error {
	handle := c.handle.Load()
	if handle == 0 {
		return ErrClosed
	}
	status := Status(run(C.uintptr_t(handle)))
	runtime.KeepAlive(c)
	return check(op, status)
}

func (a *arena) filter(op string, filter CaptureFilter) (*C.portcullis_capture_filter, error) {
	wanted := (*C.portcullis_capture_filter)(a.alloc(1, C.sizeof_portcullis_capture_filter))
	wanted.struct_size = C.sizeof_portcullis_capture_filter
	wanted.snap = C.uint32_t(filter.Snap)
	for _, verdict := range filter.Verdicts {
		if verdict > Reject {
			return nil, &Error{Op: op, Status: BadValue, Text: "error: " + verdict.String() + ": not a verdict"}
		}
		wanted.verdicts |= 1 << verdict
	}
	reasons := make([]byte, len(filter.Reasons))
	for n, reason := range filter.Reasons {
		reasons[n] = byte(reason)
	}
	wanted.reasons, wanted.reason_count = a.bytes(reasons), C.size_t(len(reasons))
	wanted.addresses = (*C.portcullis_address)(a.alloc(len(filter.Addresses), C.sizeof_portcullis_address))
	wanted.address_count = C.size_t(len(filter.Addresses))
	for n, ip := range filter.Addresses {
		unsafe.Slice(wanted.addresses, len(filter.Addresses))[n] = address(ip.Unmap())
	}
	return wanted, nil
}
