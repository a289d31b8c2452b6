package portcullis

/*
#include "bridge.h"
*/
import "C"

import (
	"runtime"
	"sync/atomic"
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

// Wire holds the settings of a firewall.
type Wire struct {
	// A and B are the interfaces between which packets are filtered.
	A, B string
	// Workers: threads; 0 is one. At most one for each queue of the interfaces.
	Workers int
	// Mode to ask for.
	Mode Mode
	// Fail: what happens to packets that no live worker takes.
	Fail Fail
}

// Firewall is an engine at work on a wire. Methods may be called by any goroutines.
type Firewall struct{ handle atomic.Uintptr }

// Port is an interface in use.
type Port struct {
	Name   string
	Mode   string // the mode that the kernel reports, for people
	Queues int    // in use: all it has
	MTU    int    // in bytes
}

// Start opens the interfaces and forwards between them by what is in force. Packets flow when it
// returns. If it fails nothing stays attached.
//
// The interfaces are those of the calling thread's network namespace: a goroutine that enters another
// calls [runtime.LockOSThread] first.
func (e *Engine) Start(wire Wire) (*Firewall, error) {
	var a arena
	defer a.free()
	config := (*C.portcullis_firewall_config)(a.alloc(1, C.sizeof_portcullis_firewall_config))
	config.struct_size = C.sizeof_portcullis_firewall_config
	config.a, config.b = a.text(wire.A), a.text(wire.B)
	if wire.Workers < 0 || int64(wire.Workers) > 1<<16 {
		return nil, &Error{Op: "Start", Status: BadValue, Text: "error: 1 to 65536 workers"}
	}
	config.workers = C.uint32_t(wire.Workers)
	config.mode, config.fail = C.uint8_t(wire.Mode), C.uint8_t(wire.Fail)
	var out C.uintptr_t
	err := e.do("Start", &a, func(handle C.uintptr_t) C.int32_t {
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

// Ports are the interfaces in use, and the modes they really have.
func (f *Firewall) Ports() ([]Port, error) {
	var ports []Port
	for index := C.size_t(0); index < 2; index++ {
		handle := f.handle.Load()
		if handle == 0 {
			return nil, ErrClosed
		}
		p := C.portcullis_port{struct_size: C.sizeof_portcullis_port}
		status := Status(C.bridge_firewall_port(C.uintptr_t(handle), index, &p))
		runtime.KeepAlive(f)
		if err := check("Ports", status); err != nil {
			return nil, err
		}
		ports = append(ports, Port{
			Name:   C.GoString((*C.char)(unsafe.Pointer(&p.name))),
			Mode:   C.GoString((*C.char)(unsafe.Pointer(&p.mode))),
			Queues: int(p.queues),
			MTU:    int(p.mtu),
		})
	}
	return ports, nil
}
