package portcullis

/*
#include "bridge.h"
*/
import "C"

import (
	"context"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// EventKind says what an event is about.
type EventKind uint8

// The kinds; later versions may know more.
const (
	Opened  EventKind = C.PORTCULLIS_EVENT_OPENED  // a connection was opened
	Dropped EventKind = C.PORTCULLIS_EVENT_DROPPED // packets were dropped: Packets[0], one unless Config.DeniedBurst is set
	Ended   EventKind = C.PORTCULLIS_EVENT_ENDED   // a connection ended
	Changed EventKind = C.PORTCULLIS_EVENT_CHANGED // a connection was judged anew: another rule allows it, or it is another identity's
	Passed  EventKind = C.PORTCULLIS_EVENT_PASSED  // a packet that stands alone and opens nothing was allowed
)

// Close says how a connection ended.
type Close uint8

// How connections end; later versions may know more.
const (
	NotClosed     Close = 0
	CloseFIN      Close = C.PORTCULLIS_CLOSE_FIN      // both ends had said FIN
	CloseReset    Close = C.PORTCULLIS_CLOSE_RESET    // TCP reset
	CloseTimeout  Close = C.PORTCULLIS_CLOSE_TIMEOUT  // silent for too long
	CloseEvicted  Close = C.PORTCULLIS_CLOSE_EVICTED  // had to make room
	CloseReplaced Close = C.PORTCULLIS_CLOSE_REPLACED // another connection between the same ends took its place
	CloseByPolicy Close = C.PORTCULLIS_CLOSE_POLICY   // the policy in force denies it
)

// Staged says what staged policies say of a flow where they say otherwise.
type Staged uint8

// What they may say.
const (
	StagedAgrees Staged = iota // the same, or nothing is staged
	StagedAllows               // it could pass
	StagedDenies               // it could not pass
)

// String is "opened", "dropped", "ended", "changed", "passed" or "unknown".
func (k EventKind) String() string {
	switch k {
	case Opened:
		return "opened"
	case Dropped:
		return "dropped"
	case Ended:
		return "ended"
	case Changed:
		return "changed"
	case Passed:
		return "passed"
	}
	return "unknown"
}

// Event is something that happened to a flow.
type Event struct {
	Time     time.Time
	Kind     EventKind
	Verdict  Verdict // Reject only with Config.RejectDenied
	Reason   Reason  // why it may not pass, or was cut; else NoReason
	Protocol uint8   // IP protocol number
	Logged   bool    // a rule asked for this record
	// Source opened the flow, to Destination. Ports are 0 where the protocol has none.
	Source, Destination netip.AddrPort
	// From and To are who had the addresses at that time.
	From, To Party
	// Duration of a connection that ended.
	Duration time.Duration
	// Packets, and bytes of IP packets: of a connection that ended from the opener, and back; else the
	// first is how many this tells of.
	Packets [2]uint64
	Bytes   [2]uint64
	// Since is when the first of them was seen, or the connection began, and LastSeen when a packet of it
	// was seen last.
	Since, LastSeen time.Time
	Close           Close  // how a connection ended
	Zone            uint16 // the address space: 0 unless a tunnel has one of its own
	// ICMPType and ICMPCode are those of ICMP or ICMPv6.
	ICMPType, ICMPCode uint8
	TCPFlags           uint8 // as in the header: of the packet, or all that the connection saw
	// Staged is what staged policies say, by StagedPolicy, written at StagedOrigin.
	Staged                     Staged
	StagedPolicy, StagedOrigin string
	// Policy that decided, as "Kind/namespace/name", or "default".
	Policy string
	// Origin is where the rule that decided was written, as "file:line:column".
	Origin string
}

// Party is one end of a flow, at the time of the event.
type Party struct {
	Identity uint32
	Name     string // of the endpoint, as "namespace/name"; empty if none owned the address
	Labels   string // as "key=value,key=value"
}

// reader reads events for one goroutine at a time.
type reader struct {
	turn chan struct{} // holds one token: whoever has it reads
	// file is a duplicate of the library's descriptor, so that Go's poller may wait for it.
	file *os.File
	raw  syscall.RawConn
}

// Room for events and their texts of one call of the library.
const (
	eventsAtOnce = 256
	textAtOnce   = 256 * eventsAtOnce
)

func (r *reader) open(handle C.uintptr_t) error {
	var fd C.int
	if status := Status(C.bridge_engine_event_fd(handle, &fd)); status != ok {
		return &Error{Op: "New", Status: status}
	}
	copied, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_DUPFD_CLOEXEC, 0)
	if errno != 0 {
		return &Error{Op: "New", Status: System, Text: "error: cannot duplicate the event descriptor: " + errno.Error()}
	}
	r.file = os.NewFile(copied, "portcullis-events")
	raw, err := r.file.SyscallConn()
	if err != nil {
		return err
	}
	r.raw, r.turn = raw, make(chan struct{}, 1)
	r.turn <- struct{}{}
	return nil
}

// close wakes up whoever waits.
func (r *reader) close() { r.file.Close() }

// Events waits until something was recorded and hands over what there is, at most len(events), oldest
// first for each worker and judge. What did not fit inside the library meanwhile is counted
// ([Totals.EventsLost]).
//
// Ends with the context's error when it is done, and with [ErrClosed] when the engine is closed. Any
// goroutine; they take turns, and each event goes to one of them.
func (e *Engine) Events(ctx context.Context, events []Event) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if len(events) == 0 {
		return 0, nil
	}
	r := &e.reader
	select {
	case <-r.turn:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	defer func() { r.turn <- struct{}{} }()

	// A context that ends sets a deadline in the past, which ends the waiting.
	if ctx.Done() != nil {
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			select {
			case <-ctx.Done():
				r.file.SetReadDeadline(time.Unix(1, 0))
			case <-stop:
			}
		}()
		defer func() {
			close(stop)
			<-stopped
			r.file.SetReadDeadline(time.Time{})
		}()
	}
	var count int
	var failed error
	err := r.raw.Read(func(uintptr) bool {
		count, failed = e.pull(events)
		return count > 0 || failed != nil
	})
	switch {
	case count > 0 || failed != nil:
		return count, failed
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case e.handle.Load() == 0:
		return 0, ErrClosed
	}
	return 0, err
}

// PollEvents is [Engine.Events] without waiting: it may answer 0.
func (e *Engine) PollEvents(events []Event) (int, error) {
	<-e.reader.turn
	defer func() { e.reader.turn <- struct{}{} }()
	return e.pull(events)
}

// pull reads what there is.
func (e *Engine) pull(events []Event) (int, error) {
	var a arena
	defer a.free()
	room := eventsAtOnce
	if len(events) < room {
		room = len(events)
	}
	start := (*C.portcullis_event)(a.alloc(room, C.sizeof_portcullis_event))
	text := (*C.char)(a.alloc(textAtOnce, 1))
	total := 0
	for total < len(events) {
		want := len(events) - total
		if want > room {
			want = room
		}
		var count C.size_t
		err := e.call("Events", func(handle C.uintptr_t) C.int32_t {
			return C.bridge_engine_events(handle, start, C.size_t(want), text, textAtOnce, &count)
		})
		if err != nil {
			if total > 0 {
				break // the next call will say so
			}
			return 0, err
		}
		list := unsafe.Slice(start, int(count))
		for i := range list {
			events[total+i] = goEvent(&list[i])
		}
		total += int(count)
		if count == 0 {
			break
		}
	}
	return total, nil
}

func goEvent(e *C.portcullis_event) Event {
	return Event{
		Time:        time.Unix(0, int64(e.time)),
		Kind:        EventKind(e.kind),
		Verdict:     Verdict(e.verdict),
		Reason:      Reason(e.reason),
		Protocol:    uint8(e.protocol),
		Logged:      e.logged != 0,
		Source:      netip.AddrPortFrom(goAddress(&e.source), uint16(e.source_port)),
		Destination: netip.AddrPortFrom(goAddress(&e.destination), uint16(e.destination_port)),
		From: Party{
			Identity: uint32(e.source_identity),
			Name:     C.GoString(e.source_name),
			Labels:   C.GoString(e.source_labels),
		},
		To: Party{
			Identity: uint32(e.destination_identity),
			Name:     C.GoString(e.destination_name),
			Labels:   C.GoString(e.destination_labels),
		},
		Duration: time.Duration(e.duration),
		Packets:  [2]uint64{uint64(e.packets[0]), uint64(e.packets[1])},
		Bytes:    [2]uint64{uint64(e.bytes[0]), uint64(e.bytes[1])},
		Since:    time.Unix(0, int64(e.since)),
		LastSeen: time.Unix(0, int64(e.last_seen)),
		Close:    Close(e.close),
		Zone:     uint16(e.zone),
		ICMPType: uint8(e.icmp_type),
		ICMPCode: uint8(e.icmp_code),
		TCPFlags: uint8(e.tcp_flags),
		Staged:   Staged(e.staged),

		StagedPolicy: C.GoString(e.staged_policy),
		StagedOrigin: C.GoString(e.staged_origin),

		Policy: C.GoString(e.policy),
		Origin: C.GoString(e.origin),
	}
}
