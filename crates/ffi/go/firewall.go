package portcullis

/*
#include "bridge.h"
*/
import "C"

import (
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// Mode is which AF_XDP mode to ask for, and whether a lesser one will do.
type Mode uint8

// The modes.
const (
	PreferZeroCopy  Mode = C.PORTCULLIS_MODE_PREFER_ZEROCOPY  // zero-copy, else the next lesser mode (the default)
	RequireZeroCopy Mode = C.PORTCULLIS_MODE_REQUIRE_ZEROCOPY // zero-copy or an error
	PreferCopy      Mode = C.PORTCULLIS_MODE_PREFER_COPY      // copy mode with the program in the driver, else generic
	RequireCopy     Mode = C.PORTCULLIS_MODE_REQUIRE_COPY     // copy mode with the program in the driver, or an error
	Generic         Mode = C.PORTCULLIS_MODE_GENERIC          // generic mode, which every driver has
)

// Fail is what happens to packets that no live worker takes.
type Fail uint8

// What may happen to them.
const (
	FailClosed Fail = C.PORTCULLIS_FAIL_CLOSED // they are dropped (the default)
	FailOpen   Fail = C.PORTCULLIS_FAIL_OPEN   // they go to the host's network stack
)

// HugePages says whether packet memory lies in huge pages, which must be reserved (vm.nr_hugepages).
type HugePages uint8

// Where packet memory may lie.
const (
	NoHugePages      HugePages = 0                               // in ordinary pages (the default)
	PreferHugePages  HugePages = C.PORTCULLIS_HUGE_PAGES_PREFER  // in huge pages if there are enough
	RequireHugePages HugePages = C.PORTCULLIS_HUGE_PAGES_REQUIRE // in huge pages, or an error
)

// Wire holds the settings of a firewall and its first wire; 0 is the default of every field.
type Wire struct {
	// A and B are the interfaces between which packets are filtered. Without B, what comes in at A
	// leaves there. Without either there is no wire yet: see [Firewall.AddWire].
	A, B string
	// Workers: threads; 0 is one. They share out the queues of all wires.
	Workers int
	// CPUs for the workers: the first worker stays on the first, and so on. Empty: they go where the
	// scheduler puts them.
	CPUs []int
	// Mode to ask for.
	Mode Mode
	// Fail: what happens to packets that no live worker takes.
	Fail Fail
	// Pins is a folder of a BPF file system where the programs are pinned, so that Fail holds also when
	// the process is gone, and until a successor takes over.
	Pins string
	// EarlyDropCapacity is how many prefixes there is room for in [Firewall.ReplaceEarlyDrop].
	EarlyDropCapacity uint32
	// Mirror is the interface that copies of packets leave by, which needs a queue for each worker; which
	// packets those are says [Engine.Mirror]. It is only sent to.
	Mirror string
	// Rings, frames and polling.
	Tuning Tuning
}

// Tuning is what few need to set; 0 is the default of every field.
type Tuning struct {
	HugePages      HugePages
	NotPromiscuous bool // packets for other link-layer addresses are not received
	// Entries of each queue's rings: powers of two, 16 to 32768; unless set 4096 of those of receiving
	// (rx, fill) and 1024 of those of sending (tx, completion).
	RXRing, TXRing, FillRing, CompletionRing uint32
	ChunkSize                                uint32 // bytes of a frame: 2048 or 4096
	FramesPerQueue                           uint32 // at least 64
	BusyPollMicroseconds                     uint32 // how long a call may look for packets; 0: interrupts
	BusyPollBudget                           uint32 // packets that a call may receive
	// StaleAfter is the time without a heartbeat after which a worker counts as stalled. In whole
	// milliseconds, as are the others.
	StaleAfter time.Duration
	IdleRounds uint32        // rounds without a packet after which a worker sleeps
	Tick       time.Duration // longest sleep of a worker, at most 100 ms
	Sweep      time.Duration // that one look through the whole connection table takes
	// BusyWait is how long to wait for queues and interfaces that a predecessor is just letting go of;
	// 2 s unless set.
	BusyWait time.Duration
	// NUMA is where packet memory lies on machines with several nodes.
	NUMA NUMA
	// Nice is the nice value of the workers' threads, from -20 to 19. 0 means -20, so that no packet
	// waits for other work of the machine; [NiceOrdinary] means 0. Without CAP_SYS_NICE they keep that
	// of the calling thread.
	Nice int32
}

// NiceOrdinary as [Tuning.Nice] gives the workers a nice value of 0, that of ordinary threads.
const NiceOrdinary int32 = C.PORTCULLIS_NICE_ORDINARY

// NUMA is where packet memory lies: 0 on the node of the interfaces, else as [NUMANode] or
// [NUMAAnywhere] say.
type NUMA uint32

// NUMAAnywhere lets packet memory lie where the kernel puts it.
const NUMAAnywhere NUMA = math.MaxUint32

// NUMANode lets packet memory lie on this node, or is an error.
func NUMANode(node uint32) NUMA { return NUMA(node) + 1 }

// Link is a wire to be added: interfaces that belong together.
type Link struct {
	A, B string // as in [Wire]
	Name string // "A:B", or "A", if empty
	// SmallRings: rings of 128 packets and 256 frames a queue, as becomes a link to one pod.
	SmallRings bool
	// Others are further interfaces, up to 64 in all: then all of them are a switch, which must have a
	// Name. What comes in at one leaves, if allowed, at the one behind which its destination spoke
	// last, and at all others if that is not known or means a group.
	Others []string
	// Learning is how a switch learns and floods; only a switch has it.
	Learning Learning
}

// Learning is how a switch learns and floods; 0 is the default of every field.
type Learning struct {
	// Age is how long an address is remembered that says nothing; 300 s unless set.
	Age time.Duration
	// Addresses behind each interface that are remembered; 1024 unless set, at most a million.
	Addresses uint32
	// FloodsPerSecond are packets from each interface that go to all others, because they are for groups,
	// for everybody or for addresses that are not known; more are dropped. 1000 unless set. FloodsBurst
	// of them at once after a silence; as many as in a second unless set.
	FloodsPerSecond, FloodsBurst uint32
	// NoFloods drops all of these.
	NoFloods bool
}

// Firewall is an engine at work on wires. Methods may be called by any goroutines.
type Firewall struct {
	handle atomic.Uintptr
	// Serialises calls that may leave a text of what went wrong.
	change sync.Mutex
}

// Start starts workers and opens the interfaces, if the settings name some, and forwards between them
// by what is in force. Packets flow when it returns. If it fails nothing stays attached.
//
// The interfaces are those of the calling thread's network namespace: a goroutine that enters another
// calls [runtime.LockOSThread] first.
func (e *Engine) Start(wire Wire) (*Firewall, error) {
	var a arena
	defer a.free()
	config := (*C.portcullis_firewall_config)(a.alloc(1, C.sizeof_portcullis_firewall_config))
	config.struct_size = C.sizeof_portcullis_firewall_config
	config.a, config.b, config.pins = a.optional(wire.A), a.optional(wire.B), a.optional(wire.Pins)
	config.mirror = a.optional(wire.Mirror)
	if wire.Workers < 0 || int64(wire.Workers) > 1<<16 {
		return nil, &Error{Op: "Start", Status: BadValue, Text: "error: 1 to 65536 workers"}
	}
	config.workers = C.uint32_t(wire.Workers)
	config.mode, config.fail = C.uint8_t(wire.Mode), C.uint8_t(wire.Fail)
	config.early_drop_capacity = C.uint32_t(wire.EarlyDropCapacity)
	config.cpus = (*C.uint32_t)(a.alloc(len(wire.CPUs), C.sizeof_uint32_t))
	config.cpu_count = C.size_t(len(wire.CPUs))
	for n, cpu := range wire.CPUs {
		if cpu < 0 || int64(cpu) > math.MaxUint32 {
			return nil, &Error{Op: "Start", Status: BadValue, Text: fmt.Sprintf("error: CPU %d: there is none", cpu)}
		}
		unsafe.Slice(config.cpus, len(wire.CPUs))[n] = C.uint32_t(cpu)
	}
	t := &wire.Tuning
	config.huge_pages, config.not_promiscuous = C.uint8_t(t.HugePages), flag(t.NotPromiscuous)
	config.rx_ring, config.tx_ring = C.uint32_t(t.RXRing), C.uint32_t(t.TXRing)
	config.fill_ring, config.completion_ring = C.uint32_t(t.FillRing), C.uint32_t(t.CompletionRing)
	config.chunk_size, config.frames_per_queue = C.uint32_t(t.ChunkSize), C.uint32_t(t.FramesPerQueue)
	config.busy_poll_us, config.busy_poll_budget = C.uint32_t(t.BusyPollMicroseconds), C.uint32_t(t.BusyPollBudget)
	config.idle_rounds, config.numa = C.uint32_t(t.IdleRounds), C.uint32_t(t.NUMA)
	config.nice = C.int32_t(t.Nice)
	var err error
	for to, from := range map[*C.uint32_t]time.Duration{
		&config.stale_after_ms: t.StaleAfter, &config.tick_ms: t.Tick, &config.sweep_ms: t.Sweep,
		&config.busy_wait_ms: t.BusyWait,
	} {
		if *to, err = millis("Start", from); err != nil {
			return nil, err
		}
	}
	var out C.uintptr_t
	err = e.do("Start", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_firewall_start(handle, config, &out)
	})
	if err != nil {
		return nil, err
	}
	f := &Firewall{}
	f.handle.Store(uintptr(out))
	runtime.SetFinalizer(f, (*Firewall).Close)
	return f, nil
}

// AddWire opens the interfaces of a wire and gives them to the workers. Packets flow through it when
// it returns; those of other wires do not wait. A wire of the same name, or with one of the interfaces,
// is replaced if one of its interfaces has vanished; else it is [Interface]. If it fails nothing has
// changed. Network namespaces are as in [Engine.Start].
func (f *Firewall) AddWire(link Link) error {
	var a arena
	defer a.free()
	wire := (*C.portcullis_wire)(a.alloc(1, C.sizeof_portcullis_wire))
	wire.struct_size = C.sizeof_portcullis_wire
	wire.a, wire.b, wire.name = a.text(link.A), a.optional(link.B), a.optional(link.Name)
	wire.small_rings = flag(link.SmallRings)
	wire.others = (**C.char)(a.alloc(len(link.Others), unsafe.Sizeof(wire.a)))
	wire.other_count = C.size_t(len(link.Others))
	for n, other := range link.Others {
		unsafe.Slice(wire.others, len(link.Others))[n] = a.text(other)
	}
	l := &link.Learning
	var err error
	if wire.learn_age_ms, err = millis("AddWire", l.Age); err != nil {
		return err
	}
	wire.learn_addresses = C.uint32_t(l.Addresses)
	wire.floods_per_second, wire.floods_burst = C.uint32_t(l.FloodsPerSecond), C.uint32_t(l.FloodsBurst)
	if l.NoFloods {
		wire.floods_per_second = math.MaxUint32
	}
	return f.do("AddWire", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_firewall_add_wire(handle, wire)
	})
}

// RemoveWire takes a wire out, by its name: waits a short while for frames in transmission, takes the
// programs off its interfaces and gives back all memory. Other wires do not wait. [NoSuchWire] if there
// is none.
func (f *Firewall) RemoveWire(name string) error {
	var a arena
	defer a.free()
	n := a.text(name)
	return f.do("RemoveWire", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_firewall_remove_wire(handle, n)
	})
}

// Wires are the names of the wires, in the order in which they were added.
func (f *Firewall) Wires() ([]string, error) {
	text, err := f.text("Wires", func(handle C.uintptr_t, buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_firewall_wires(handle, buffer, size, needed)
	})
	if err != nil || text == "" {
		return nil, err
	}
	return strings.Split(text, "\n"), nil
}

// LesserMode is why the preferred mode was not to be had; empty if it was.
func (f *Firewall) LesserMode() (string, error) {
	return f.text("LesserMode", func(handle C.uintptr_t, buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_firewall_lesser_mode(handle, buffer, size, needed)
	})
}

// ReplaceEarlyDrop makes the kernel drop packets from exactly these prefixes, on all interfaces and in
// either direction, before any worker sees them: no policy, no record, only a count
// ([Program.EarlyDropped]). For floods, and for feeds that no policy excepts; what policies are to see
// belongs into a set ([Engine.ReplaceSet]). Needs [Wire.EarlyDropCapacity]; [Interface], and nothing is
// changed, if they are more.
func (f *Firewall) ReplaceEarlyDrop(prefixes []netip.Prefix) error {
	list := make([]C.portcullis_prefix, len(prefixes)+1) // one more, so that there is a first
	for i, prefix := range prefixes {
		list[i] = cPrefix(prefix)
	}
	return f.do("ReplaceEarlyDrop", nil, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_firewall_early_drop(handle, &list[0], C.size_t(len(prefixes)))
	})
}

// Halt stops the workers and waits until they have told everything: what is read from the engine
// afterwards, and the connections that are saved, are complete. From then on no packet passes; Close takes
// the programs off the interfaces.
func (f *Firewall) Halt() error {
	return f.call("Halt", func(handle C.uintptr_t) C.int32_t { return C.bridge_firewall_halt(handle) })
}

// Close stops the workers, lets frames in transmission leave, and takes the programs off the
// interfaces. Closing again does nothing.
func (f *Firewall) Close() error {
	handle := f.handle.Swap(0)
	if handle == 0 {
		return nil
	}
	runtime.SetFinalizer(f, nil)
	return check("Close", Status(C.bridge_firewall_stop(C.uintptr_t(handle))))
}

// call runs a call that leaves no text behind.
func (f *Firewall) call(op string, run func(C.uintptr_t) C.int32_t) error {
	handle := f.handle.Load()
	if handle == 0 {
		return ErrClosed
	}
	status := Status(run(C.uintptr_t(handle)))
	runtime.KeepAlive(f)
	return check(op, status)
}

// do runs a call that may leave a text behind, and fetches it.
func (f *Firewall) do(op string, a *arena, run func(C.uintptr_t) C.int32_t) error {
	if a != nil && a.nul {
		return &Error{Op: op, Status: BadValue, Text: "error: a text with a NUL inside"}
	}
	f.change.Lock()
	defer f.change.Unlock()
	return withText(f.call(op, run), func(buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_firewall_error(C.uintptr_t(f.handle.Load()), buffer, size, needed)
	})
}

// text runs a call that answers text.
func (f *Firewall) text(
	op string, run func(C.uintptr_t, *C.char, C.size_t, *C.size_t) C.int32_t,
) (text string, err error) {
	err = f.call(op, func(handle C.uintptr_t) C.int32_t {
		var status Status
		text, status = readText(func(buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
			return run(handle, buffer, size, needed)
		})
		return C.int32_t(status)
	})
	return text, err
}

// millis is a duration in milliseconds.
func millis(op string, d time.Duration) (C.uint32_t, error) {
	if d < 0 || d > 0 && d < time.Millisecond || d.Milliseconds() > math.MaxUint32 {
		return 0, &Error{Op: op, Status: BadValue, Text: fmt.Sprintf("error: %v: whole milliseconds, at most 49 days", d)}
	}
	return C.uint32_t(d.Milliseconds()), nil
}
