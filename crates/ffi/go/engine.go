package portcullis

/*
#include "bridge.h"
*/
import "C"

import (
	"runtime"
	"sync"
	"sync/atomic"
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
	// Prove proves programs equal to the policies before they are published.
	Prove bool
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

// Engine holds policies over a cluster, and connections. Before something is applied every IP packet
// is dropped. Methods may be called by any goroutines; changes wait for each other, judges never wait.
type Engine struct {
	handle atomic.Uintptr
	// Serialises calls that may leave a text of what went wrong.
	change sync.Mutex
	reader reader
}

// New makes an engine with nothing in force. Close it when done.
func New(config Config) (*Engine, error) {
	if err := checkABI(); err != nil {
		return nil, err
	}
	if config.Connections < 0 || config.EventCapacity < 0 {
		return nil, &Error{Op: "New", Status: BadValue, Text: "error: a count below zero"}
	}
	var timeouts [2]C.uint32_t
	for n, timeout := range [2]time.Duration{config.TCPTimeout, config.UDPTimeout} {
		var err error
		if timeouts[n], err = millis("New", timeout); err != nil {
			return nil, err
		}
	}
	if config.Retention < 0 || config.Retention > 0 && config.Retention < time.Millisecond {
		return nil, &Error{Op: "New", Status: BadValue, Text: "error: retention: whole milliseconds"}
	}
	c := C.portcullis_engine_config{
		struct_size:               C.sizeof_portcullis_engine_config,
		connections:               C.size_t(config.Connections),
		event_capacity:            C.size_t(config.EventCapacity),
		on_policy_change:          C.uint8_t(config.OnPolicyChange),
		drop_arp:                  flag(config.DropARP),
		judge_neighbour_discovery: flag(config.JudgeNeighbourDiscovery),
		pass_non_ip:               flag(config.PassNonIP),
		pick_up:                   flag(config.PickUp),
		prove:                     flag(config.Prove),
		evict_when_full:           flag(config.EvictWhenFull),
		leave_checksums:           flag(config.LeaveChecksums),
		identity_connections:      C.uint32_t(config.Identity.Connections),
		identity_half_open:        C.uint32_t(config.Identity.HalfOpen),
		identity_new_per_second:   C.uint32_t(config.Identity.NewPerSecond),
		identity_new_burst:        C.uint32_t(config.Identity.NewBurst),
		rejects_per_second:        C.uint32_t(config.RejectsPerSecond),
		reject_burst:              C.uint32_t(config.RejectBurst),
		tcp_timeout_ms:            timeouts[0],
		udp_timeout_ms:            timeouts[1],
		retention_ms:              C.uint64_t(config.Retention.Milliseconds()),
		denied_burst:              C.uint32_t(config.DeniedBurst),
	}
	var handle C.uintptr_t
	if status := Status(C.bridge_engine_new(&c, &handle)); status != ok {
		return nil, &Error{Op: "New", Status: status}
	}
	e := &Engine{}
	e.handle.Store(uintptr(handle))
	if err := e.reader.open(handle); err != nil {
		C.bridge_engine_free(handle)
		return nil, err
	}
	runtime.SetFinalizer(e, (*Engine).Close)
	return e, nil
}

// Close frees the engine. Its judges and firewalls keep what they need until they are closed too.
// Waits for nobody: calls of other goroutines end as if the engine were still there, or with
// [ErrClosed]. Closing again does nothing.
func (e *Engine) Close() error {
	handle := e.handle.Swap(0)
	if handle == 0 {
		return nil
	}
	runtime.SetFinalizer(e, nil)
	e.reader.close()
	return check("Close", Status(C.bridge_engine_free(C.uintptr_t(handle))))
}

// Explain says for people why a flow is decided as it is: the tiers walked, the rule with file and
// line, near misses.
func (e *Engine) Explain(flow Flow) (string, error) {
	f := flow.c()
	return e.text("Explain", func(handle C.uintptr_t, buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_engine_explain(handle, &f, buffer, size, needed)
	})
}

// Rule is the rule of a judgement, as "policy direction file:line:column", also if its policy is gone.
// [BadValue] if there is none.
func (e *Engine) Rule(rule uint32) (string, error) {
	return e.text("Rule", func(handle C.uintptr_t, buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_engine_rule(handle, C.uint32_t(rule), buffer, size, needed)
	})
}

// EventFD is a descriptor that is readable when events wait, for an event loop of the program's own;
// [Engine.Events] waits without it. It is the engine's: neither read nor close it, and forget it
// before the engine is closed.
func (e *Engine) EventFD() (int, error) {
	var fd C.int
	err := e.call("EventFD", func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_event_fd(handle, &fd)
	})
	return int(fd), err
}

// call runs a call that leaves no text behind.
func (e *Engine) call(op string, run func(C.uintptr_t) C.int32_t) error {
	handle := e.handle.Load()
	if handle == 0 {
		return ErrClosed
	}
	status := Status(run(C.uintptr_t(handle)))
	runtime.KeepAlive(e)
	return check(op, status)
}

// do runs a call that may leave a text behind, and fetches it.
func (e *Engine) do(op string, a *arena, run func(C.uintptr_t) C.int32_t) error {
	if a != nil && a.nul {
		return &Error{Op: op, Status: BadValue, Text: "error: a text with a NUL inside"}
	}
	e.change.Lock()
	defer e.change.Unlock()
	return withText(e.call(op, run), func(buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_engine_error(C.uintptr_t(e.handle.Load()), buffer, size, needed)
	})
}

// withText adds to an error what the library has to say of it.
func withText(err error, read func(*C.char, C.size_t, *C.size_t) C.int32_t) error {
	failed, is := err.(*Error)
	if !is || failed.Status < Refused && failed.Status != BadValue {
		return err
	}
	if text, status := readText(read); status == ok {
		failed.Text = text
	}
	return failed
}

// text runs a call that answers text.
func (e *Engine) text(
	op string, run func(C.uintptr_t, *C.char, C.size_t, *C.size_t) C.int32_t,
) (text string, err error) {
	err = e.do(op, nil, func(handle C.uintptr_t) C.int32_t {
		var status Status
		text, status = readText(func(buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
			return run(handle, buffer, size, needed)
		})
		return C.int32_t(status)
	})
	return text, err
}

// readText asks for the size, then for the text, and again if it grew meanwhile.
func readText(run func(*C.char, C.size_t, *C.size_t) C.int32_t) (string, Status) {
	var needed C.size_t
	if status := Status(run(nil, 0, &needed)); status != ok {
		return "", status
	}
	for {
		buffer := make([]byte, needed)
		status := Status(run((*C.char)(unsafe.Pointer(&buffer[0])), needed, &needed))
		switch {
		case status == ok && int(needed) <= len(buffer):
			return string(buffer[:needed-1]), ok
		case status != tooSmall:
			return "", status
		}
	}
}

func check(op string, status Status) error {
	switch status {
	case ok:
		return nil
	case C.PORTCULLIS_BAD_HANDLE:
		return ErrClosed // closed while the call was on its way
	}
	return &Error{Op: op, Status: status}
}

func flag(value bool) C.uint8_t {
	if value {
		return 1
	}
	return 0
}
