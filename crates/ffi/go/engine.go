package portcullis

/*
#include "bridge.h"
*/
import "C"

import (
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
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
}

// Engine holds policies over a cluster, and connections. Before something is applied every IP packet
// is dropped. Methods may be called by any goroutines; changes wait for each other, judges never wait.
type Engine struct {
	handle atomic.Uintptr
	// Serialises calls that may leave a text of what went wrong.
	change sync.Mutex
	reader reader
}

// Applied is what a change put in force.
type Applied struct {
	Generation uint64 // number of the set in force, from 1; changes of single endpoints do not count
	Policies   uint64 // policies in it
	Endpoints  uint64 // endpoints it knows
	Identities uint64 // identities they make, those of CIDRs included
}

// Document is a text with documents in it.
type Document struct {
	// Name stands in errors where a file name would.
	Name string
	// Data is YAML or JSON, several documents separated by "---".
	Data []byte
}

// New makes an engine with nothing in force. Close it when done.
func New(config Config) (*Engine, error) {
	if err := checkABI(); err != nil {
		return nil, err
	}
	if config.Connections < 0 || config.EventCapacity < 0 {
		return nil, &Error{Op: "New", Status: BadValue, Text: "error: a count below zero"}
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

// Apply replaces cluster and policies by what the documents say: compiled aside, then put in force at
// once, so that a packet is judged by the old set or the new. Sets that were replaced keep their
// content. If it fails everything stays as it was; after [Refused] the error has a line for each
// finding.
func (e *Engine) Apply(cluster, policies []Document) (Applied, error) {
	var a arena
	defer a.free()
	c, p := a.documents(cluster), a.documents(policies)
	applied := C.portcullis_applied{struct_size: C.sizeof_portcullis_applied}
	err := e.do("Apply", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_apply(handle, c, C.size_t(len(cluster)), p, C.size_t(len(policies)),
			&applied)
	})
	return goApplied(&applied), err
}

// ApplyFiles is Apply from files, or folders with every *.yaml, *.yml and *.json in them.
func (e *Engine) ApplyFiles(cluster string, policies ...string) (Applied, error) {
	var a arena
	defer a.free()
	c := a.text(cluster)
	paths := (**C.char)(a.alloc(len(policies), unsafe.Sizeof(c)))
	for i, path := range policies {
		unsafe.Slice(paths, len(policies))[i] = a.text(path)
	}
	applied := C.portcullis_applied{struct_size: C.sizeof_portcullis_applied}
	err := e.do("ApplyFiles", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_apply_files(handle, c, paths, C.size_t(len(policies)), &applied)
	})
	return goApplied(&applied), err
}

// ReplaceSet makes a set that the policies declare hold exactly these prefixes, all at once; it keeps
// them when policies are applied again. Millions are fine; about a second each million.
//
// The name is as policies have it: "GlobalNetworkSet//feed", "NetworkSet/shop/partners".
func (e *Engine) ReplaceSet(name string, prefixes []netip.Prefix) error {
	var a arena
	defer a.free()
	n := a.text(name)
	list := make([]C.portcullis_prefix, len(prefixes)+1) // one more, so that there is a first
	for i, prefix := range prefixes {
		list[i] = cPrefix(prefix)
	}
	return e.do("ReplaceSet", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_replace_set(handle, n, &list[0], C.size_t(len(prefixes)))
	})
}

// Explain says for people why a flow is decided as it is: the tiers walked, the rule with file and
// line, near misses.
func (e *Engine) Explain(flow Flow) (string, error) {
	f := flow.c()
	return e.text("Explain", func(handle C.uintptr_t, buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_engine_explain(handle, &f, buffer, size, needed)
	})
}

// Diff says for people exactly which flows would be decided otherwise if these documents were applied,
// and how many groups of flows that are: 0 if every flow is decided alike. Nothing is changed. A cluster
// of nil is the one in force. Compares twice: once for the size of the text.
func (e *Engine) Diff(cluster, policies []Document) (string, int, error) {
	var a arena
	defer a.free()
	c, p := a.documents(cluster), a.documents(policies)
	if a.nul {
		return "", 0, &Error{Op: "Diff", Status: BadValue, Text: "error: a text with a NUL inside"}
	}
	var changes C.size_t
	text, err := e.text("Diff", func(handle C.uintptr_t, buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_engine_diff(handle, c, C.size_t(len(cluster)), p, C.size_t(len(policies)),
			buffer, size, needed, &changes)
	})
	return text, int(changes), err
}

// Warnings are what the documents that were applied last gave reason to warn of, a line each with file,
// line and column: rules that do nothing, open questions of order. Empty if there was none.
func (e *Engine) Warnings() (string, error) {
	return e.text("Warnings", func(handle C.uintptr_t, buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_engine_warnings(handle, buffer, size, needed)
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
	err := e.call(op, run)
	failed, is := err.(*Error)
	if !is || failed.Status < Refused && failed.Status != BadValue {
		return err
	}
	text, read := readText(func(buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_engine_error(C.uintptr_t(e.handle.Load()), buffer, size, needed)
	})
	if read == ok {
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

func (a *arena) documents(documents []Document) *C.portcullis_text {
	start := (*C.portcullis_text)(a.alloc(len(documents), C.sizeof_portcullis_text))
	for i, document := range documents {
		text := &unsafe.Slice(start, len(documents))[i]
		text.name = a.text(document.Name)
		text.data, text.len = a.bytes(document.Data), C.size_t(len(document.Data))
	}
	return start
}

func cPrefix(prefix netip.Prefix) C.portcullis_prefix {
	out := C.portcullis_prefix{address: address(prefix.Addr()), length: C.uint8_t(prefix.Bits())}
	if !prefix.IsValid() {
		out.address.family = 0
	}
	return out
}

func goApplied(a *C.portcullis_applied) Applied {
	return Applied{
		Generation: uint64(a.generation),
		Policies:   uint64(a.policies),
		Endpoints:  uint64(a.endpoints),
		Identities: uint64(a.identities),
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
