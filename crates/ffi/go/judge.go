package portcullis

/*
#include "bridge.h"
*/
import "C"

import (
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"
)

// Verdict is what becomes of a packet or a flow.
type Verdict uint8

// The verdicts.
const (
	Allow  Verdict = C.PORTCULLIS_ALLOW  // let it through
	Deny   Verdict = C.PORTCULLIS_DENY   // drop it silently
	Reject Verdict = C.PORTCULLIS_REJECT // drop it and tell the sender
)

// String is "allow", "deny" or "reject".
func (v Verdict) String() string {
	switch v {
	case Allow:
		return "allow"
	case Deny:
		return "deny"
	case Reject:
		return "reject"
	}
	return fmt.Sprintf("Verdict(%d)", uint8(v))
}

// Reason is why something does not pass.
type Reason uint8

// NoReason is the reason of what may pass.
const NoReason Reason = C.PORTCULLIS_NO_REASON

// String is the stable name, such as "policy_denied".
func (r Reason) String() string { return C.GoString(C.portcullis_reason_name(C.uint8_t(r))) }

// State says what a packet has to do with connections.
type State uint8

// The states.
const (
	NoConnection State = iota // nothing
	Opens                     // it opens one, or tried to
	Established               // it belongs to a known one
)

// NoRule is the rule of what no rule decided.
const NoRule uint32 = C.PORTCULLIS_NO_RULE

// Judgement is what becomes of a packet or a flow, and why.
type Judgement struct {
	Verdict     Verdict
	Reason      Reason // NoReason if it passes
	State       State
	_           uint8
	Rule        uint32 // for Engine.Rule; NoRule if none decided
	Source      uint32 // identity of who opened the connection
	Destination uint32 // identity of the other end
}

// The library writes judgements into Go's memory: the layouts must be one.
var _ = [1]struct{}{}[unsafe.Sizeof(Judgement{})-uintptr(C.sizeof_portcullis_judgement)]
var _ = [1]struct{}{}[unsafe.Sizeof(Frame{})-uintptr(C.sizeof_bridge_frame)]

// Flow is a new connection, for judging without packets.
type Flow struct {
	Source, Destination netip.Addr // of one family
	Protocol            uint8      // IP protocol number
	SourcePort          uint16     // for ICMP the type
	DestinationPort     uint16     // for ICMP the code
}

// Frame is where a frame lies in a buffer.
type Frame struct {
	Offset uint32 // of its Ethernet header
	Length uint32 // bytes: all of it, or as much as was captured
	Wire   uint32 // bytes that it had on the wire; 0 is Length
}

// Outgoing is a frame to send that came with packets, beside them.
type Outgoing struct {
	// Data is the whole frame from its Ethernet header on.
	Data []byte
	// Answer: it answers a packet that was rejected, and goes back to where that came from. Else it is
	// a fragment that was held and passes now that the first of its packet came: it is sent on, after
	// the packets of the call.
	Answer bool
	// Packet is the number, in the call that judged it, of the packet that is answered.
	Packet int
}

// Judge judges packets and flows for one goroutine at a time: make one for each. All judges of an
// engine share its connections and policies.
type Judge struct {
	handle atomic.Uintptr
	busy   atomic.Bool
	// C memory, grown as needed, so that judging allocates nothing: what Buffer hands to C.
	packets     *C.portcullis_packet
	packetCount int
	flows       []C.portcullis_flow
	outgoing    []Outgoing
}

// NewJudge makes a judge; the engine lives on until it is closed too.
func (e *Engine) NewJudge() (*Judge, error) {
	var out C.uintptr_t
	err := e.call("NewJudge", func(handle C.uintptr_t) C.int32_t {
		return C.bridge_judge_new(handle, &out)
	})
	if err != nil {
		return nil, err
	}
	j := &Judge{}
	j.handle.Store(uintptr(out))
	runtime.SetFinalizer(j, (*Judge).Close)
	return j, nil
}

// Close frees the judge; [Busy] while a call is in it. Closing again does nothing.
func (j *Judge) Close() error {
	if !j.busy.CompareAndSwap(false, true) {
		return &Error{Op: "Close", Status: Busy}
	}
	defer j.busy.Store(false)
	handle := j.handle.Swap(0)
	if handle == 0 {
		return nil
	}
	runtime.SetFinalizer(j, nil)
	C.free(unsafe.Pointer(j.packets))
	j.packets, j.packetCount = nil, 0
	return check("Close", Status(C.bridge_judge_free(C.uintptr_t(handle))))
}

// Packets judges frames, from the Ethernet header on, in order and at the engine's time: out[n] is
// what becomes of packets[n]. Connections are tracked: an answer passes because its question did.
//
// out must be at least as long as packets. After an error no packet of the batch may pass: then out,
// if it is long enough, denies all of them. Hand over 32 packets or more at a time; nothing is copied.
// Held fragments that pass now, and answers to packets that were rejected, are to be had from
// [Judge.Outgoing]. A call also looks for connections that have expired, a part of the table each time:
// without packets make one some times a second with none, so that their ends are told.
func (j *Judge) Packets(packets [][]byte, out []Judgement) error {
	return j.PacketsAt(0, packets, out)
}

// PacketsAt is Packets at a time that the caller gives, which should not go back, for replays; 0 is
// the engine's own clock.
func (j *Judge) PacketsAt(now time.Duration, packets [][]byte, out []Judgement) error {
	return j.exclusive("Packets", func(handle C.uintptr_t) (C.int32_t, error) {
		if err := checkBatch("Packets", now, len(packets), len(out)); err != nil {
			return 0, err
		}
		j.outgoing = nil
		if len(packets) == 0 {
			return C.bridge_judge_buffer(handle, C.uint64_t(now), nil, 0, nil, 0, nil, nil, nil), nil
		}
		for at := 0; at < len(packets); at += C.BRIDGE_BATCH {
			part := packets[at:min(at+C.BRIDGE_BATCH, len(packets))]
			// C must not follow pointers in Go's memory to Go's memory, but may follow those that
			// are arguments: the batch goes by value.
			var batch C.bridge_batch
			for n, packet := range part {
				if len(packet) > 0 {
					batch.data[n] = (*C.uint8_t)(unsafe.Pointer(&packet[0]))
					batch.length[n] = C.size_t(len(packet))
				}
			}
			var waiting C.size_t
			status := C.bridge_judge_batch(handle, C.uint64_t(now), batch, C.size_t(len(part)),
				(*C.portcullis_judgement)(unsafe.Pointer(&out[at])), &waiting)
			if status == C.PORTCULLIS_OK && waiting > 0 {
				status = j.fetch(handle, at, int(waiting))
			}
			if status != C.PORTCULLIS_OK {
				deny(out[:len(packets)])
				return status, nil
			}
		}
		return C.PORTCULLIS_OK, nil
	})
}

// Buffer judges frames that lie in one buffer; all else is as in [Judge.Packets].
// [BadValue] if a frame does not lie within the buffer.
func (j *Judge) Buffer(buffer []byte, frames []Frame, out []Judgement) error {
	return j.BufferAt(0, buffer, frames, out)
}

// BufferAt is Buffer at a time that the caller gives: see [Judge.PacketsAt].
func (j *Judge) BufferAt(now time.Duration, buffer []byte, frames []Frame, out []Judgement) error {
	return j.exclusive("Buffer", func(handle C.uintptr_t) (C.int32_t, error) {
		var start *C.uint8_t
		if len(buffer) > 0 {
			start = (*C.uint8_t)(unsafe.Pointer(&buffer[0]))
		}
		return j.judge(handle, now, start, len(buffer), frames, out)
	})
}

// Outgoing hands over the frames to send that came with the last call of [Judge.Packets] or
// [Judge.Buffer], each once; nil if there are none. What is not fetched before the next call is gone.
func (j *Judge) Outgoing() []Outgoing {
	if !j.busy.CompareAndSwap(false, true) {
		return nil // the call that is under way will say
	}
	defer j.busy.Store(false)
	outgoing := j.outgoing
	j.outgoing = nil
	return outgoing
}

// Flows decides flows by the policy alone: no connections, no records, no counting. out[n] is the
// answer for flows[n]; out must be at least as long as flows, and is written only on success.
func (j *Judge) Flows(flows []Flow, out []Judgement) error {
	return j.exclusive("Flows", func(handle C.uintptr_t) (C.int32_t, error) {
		if len(out) < len(flows) {
			return 0, tooShort("Flows")
		}
		if len(flows) == 0 {
			return C.PORTCULLIS_OK, nil
		}
		if cap(j.flows) < len(flows) {
			j.flows = make([]C.portcullis_flow, len(flows))
		}
		list := j.flows[:len(flows)]
		for i := range flows {
			list[i] = flows[i].c()
		}
		return C.bridge_judge_flows(handle, &list[0], C.size_t(len(list)),
			(*C.portcullis_judgement)(unsafe.Pointer(&out[0]))), nil
	})
}

func (j *Judge) judge(
	handle C.uintptr_t, now time.Duration, buffer *C.uint8_t, size int, frames []Frame, out []Judgement,
) (C.int32_t, error) {
	if err := checkBatch("Buffer", now, len(frames), len(out)); err != nil {
		return 0, err
	}
	j.outgoing = nil
	if len(frames) == 0 {
		return C.bridge_judge_buffer(handle, C.uint64_t(now), nil, 0, nil, 0, nil, nil, nil), nil
	}
	if len(frames) > j.packetCount {
		C.free(unsafe.Pointer(j.packets))
		j.packets, j.packetCount = nil, 0
		j.packets = (*C.portcullis_packet)(
			C.calloc(C.size_t(len(frames)), C.sizeof_portcullis_packet))
		if j.packets == nil {
			return 0, &Error{Op: "Buffer", Status: System}
		}
		j.packetCount = len(frames)
	}
	var waiting C.size_t
	status := C.bridge_judge_buffer(handle, C.uint64_t(now), buffer, C.size_t(size),
		(*C.bridge_frame)(unsafe.Pointer(&frames[0])), C.size_t(len(frames)), j.packets,
		(*C.portcullis_judgement)(unsafe.Pointer(&out[0])), &waiting)
	if status == C.PORTCULLIS_OK && waiting > 0 {
		status = j.fetch(handle, 0, int(waiting))
	}
	if status != C.PORTCULLIS_OK {
		deny(out[:len(frames)])
	}
	return status, nil
}

// fetch takes frames to send from the library; `at` is the number of the first packet of the call.
func (j *Judge) fetch(handle C.uintptr_t, at, waiting int) C.int32_t {
	const longest = 1 << 16 // of a frame
	var a arena
	defer a.free()
	frames := (*C.portcullis_frame)(a.alloc(waiting, C.sizeof_portcullis_frame))
	bytes := (*C.uint8_t)(a.alloc(longest, 1))
	for left := C.size_t(waiting); left > 0; {
		var count C.size_t
		status := C.bridge_judge_frames(handle, frames, C.size_t(waiting), bytes, longest, &count, &left)
		if status != C.PORTCULLIS_OK {
			return status
		}
		for _, frame := range unsafe.Slice(frames, int(count)) {
			outgoing := Outgoing{Data: C.GoBytes(unsafe.Pointer(frame.data), C.int(frame.len))}
			if frame.kind == C.PORTCULLIS_FRAME_ANSWER {
				outgoing.Answer, outgoing.Packet = true, at+int(frame.packet)
			}
			j.outgoing = append(j.outgoing, outgoing)
		}
		if count == 0 {
			break
		}
	}
	return C.PORTCULLIS_OK
}

func checkBatch(op string, now time.Duration, packets, out int) error {
	switch {
	case out < packets:
		return tooShort(op)
	case now < 0:
		return &Error{Op: op, Status: BadValue, Text: "error: a time below zero"}
	}
	return nil
}

// deny is what becomes of packets that could not be judged.
func deny(out []Judgement) {
	for n := range out {
		out[n] = Judgement{Verdict: Deny, Reason: NoReason, Rule: NoRule}
	}
}

// exclusive runs a call that no other goroutine's may overlap: the scratch memory is the judge's.
func (j *Judge) exclusive(op string, run func(C.uintptr_t) (C.int32_t, error)) error {
	if !j.busy.CompareAndSwap(false, true) {
		return &Error{Op: op, Status: Busy}
	}
	defer j.busy.Store(false)
	handle := C.uintptr_t(j.handle.Load())
	if handle == 0 {
		return ErrClosed
	}
	status, err := run(handle)
	if err != nil {
		return err
	}
	if status == C.PORTCULLIS_OK {
		return nil
	}
	return withText(check(op, Status(status)), func(buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_judge_error(handle, buffer, size, needed)
	})
}

func (f *Flow) c() C.portcullis_flow {
	return C.portcullis_flow{
		source:           address(f.Source.Unmap()),
		destination:      address(f.Destination.Unmap()),
		protocol:         C.uint8_t(f.Protocol),
		source_port:      C.uint16_t(f.SourcePort),
		destination_port: C.uint16_t(f.DestinationPort),
	}
}

func tooShort(op string) error {
	return &Error{Op: op, Status: BadValue, Text: "error: out is shorter than what is to be judged"}
}
