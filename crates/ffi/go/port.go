package portcullis

/*
#include "bridge.h"
*/
import "C"

import "unsafe"

// Port is an interface in use.
type Port struct {
	Name      string
	Wire      string // the name of its wire, at most 63 bytes of it
	Mode      string // the mode that the kernel reports, for people
	Queues    int    // in use: all it has
	MTU       int    // in bytes
	Memory    uint64 // bytes of packet memory of its wire
	HugePages bool   // that lies in huge pages
}

// Socket is what the kernel counted on one socket.
type Socket struct {
	Port          int    // which interface, as [Firewall.Ports] has them
	Queue         int    // which queue of it
	Dropped       uint64 // packets: too long for a frame, or no frame
	RXRingFull    uint64 // packets dropped because the RX ring was full
	FillRingEmpty uint64 // times the fill ring was found empty
	TXRingEmpty   uint64 // times the TX ring was found empty
	// Descriptors that the kernel did not take from the fill ring and from the TX ring: zero, or a
	// mistake of the library.
	RXInvalidDescriptors, TXInvalidDescriptors uint64
}

// Program is what the XDP program on one interface did with its packets.
type Program struct {
	Port         int    // which interface, as [Firewall.Ports] has them
	ToSocket     uint64 // handed to the socket of their queue
	MissDropped  uint64 // dropped, because their queue had no socket
	MissPassed   uint64 // passed to the host's stack, because their queue had no socket
	StaleDropped uint64 // dropped, because their queue's worker had stalled
	StalePassed  uint64 // passed to the host's stack, because their queue's worker had stalled
	EarlyDropped uint64 // dropped, because of the early-drop set
}

// PortState is what an interface is; later versions may know more.
type PortState uint8

// The states.
const (
	PortUp   PortState = C.PORTCULLIS_PORT_UP   // packets can flow
	PortDown PortState = C.PORTCULLIS_PORT_DOWN // it was taken down, or its other end is
	PortGone PortState = C.PORTCULLIS_PORT_GONE // it is not there any more, or in another network namespace
)

// String is "up", "down", "gone" or "unknown".
func (s PortState) String() string {
	switch s {
	case PortUp:
		return "up"
	case PortDown:
		return "down"
	case PortGone:
		return "gone"
	}
	return "unknown"
}

// PortChange says that an interface is not what it was.
type PortChange struct {
	Name  string
	Wire  string // the name of its wire
	State PortState
}

// Ports are the interfaces in use, wire by wire, and the modes they really have.
func (f *Firewall) Ports() ([]Port, error) {
	var ports []Port
	for {
		p := C.portcullis_port{struct_size: C.sizeof_portcullis_port}
		err := f.call("Ports", func(handle C.uintptr_t) C.int32_t {
			return C.bridge_firewall_port(handle, C.size_t(len(ports)), &p)
		})
		if failed, is := err.(*Error); is && failed.Status == BadValue {
			return ports, nil // beyond the last
		}
		if err != nil {
			return nil, err
		}
		ports = append(ports, Port{
			Name:      C.GoString((*C.char)(unsafe.Pointer(&p.name))),
			Wire:      C.GoString((*C.char)(unsafe.Pointer(&p.wire))),
			Mode:      C.GoString((*C.char)(unsafe.Pointer(&p.mode))),
			Queues:    int(p.queues),
			MTU:       int(p.mtu),
			Memory:    uint64(p.memory),
			HugePages: p.huge_pages != 0,
		})
	}
}

// Sockets is what the kernel counted on the socket of each queue, since it was opened. One system call
// a socket.
func (f *Firewall) Sockets() ([]Socket, error) {
	var list []C.portcullis_socket
	err := all(func(capacity int) (int, error) {
		list = make([]C.portcullis_socket, capacity+1) // one more, so that there is a first
		var count C.size_t
		err := f.do("Sockets", nil, func(handle C.uintptr_t) C.int32_t {
			return C.bridge_firewall_sockets(handle, &list[0], C.size_t(capacity), &count)
		})
		list = list[:min(int(count), capacity)]
		return int(count), err
	})
	sockets := make([]Socket, len(list))
	for n, s := range list {
		sockets[n] = Socket{
			Port:                 int(s.port),
			Queue:                int(s.queue),
			Dropped:              uint64(s.rx_dropped),
			RXRingFull:           uint64(s.rx_ring_full),
			FillRingEmpty:        uint64(s.rx_fill_ring_empty),
			TXRingEmpty:          uint64(s.tx_ring_empty),
			RXInvalidDescriptors: uint64(s.rx_invalid_descriptors),
			TXInvalidDescriptors: uint64(s.tx_invalid_descriptors),
		}
	}
	return sockets, err
}

// Programs is what the XDP program on each interface did with its packets, since it was attached. One
// system call an interface.
func (f *Firewall) Programs() ([]Program, error) {
	var list []C.portcullis_program
	err := all(func(capacity int) (int, error) {
		list = make([]C.portcullis_program, capacity+1)
		var count C.size_t
		err := f.do("Programs", nil, func(handle C.uintptr_t) C.int32_t {
			return C.bridge_firewall_programs(handle, &list[0], C.size_t(capacity), &count)
		})
		list = list[:min(int(count), capacity)]
		return int(count), err
	})
	programs := make([]Program, len(list))
	for n, p := range list {
		programs[n] = Program{
			Port:         int(p.port),
			ToSocket:     uint64(p.to_socket),
			MissDropped:  uint64(p.miss_dropped),
			MissPassed:   uint64(p.miss_passed),
			StaleDropped: uint64(p.stale_dropped),
			StalePassed:  uint64(p.stale_passed),
			EarlyDropped: uint64(p.early_dropped),
		}
	}
	return programs, err
}

// PortChanges says which interfaces went down, came back or vanished since the last call (or the
// start): only how it is now, so that nothing piles up if nobody asks. Packets of an interface that
// comes back flow by themselves; a wire with an interface that vanished is removed by this call, to be
// added again when the interface is back. Two system calls an interface: ask every second or so.
func (f *Firewall) PortChanges() ([]PortChange, error) {
	var changes []PortChange
	for {
		var list [64]C.portcullis_port_change
		var count C.size_t
		err := f.do("PortChanges", nil, func(handle C.uintptr_t) C.int32_t {
			return C.bridge_firewall_changes(handle, &list[0], C.size_t(len(list)), &count)
		})
		for n := 0; n < int(count); n++ {
			change := &list[n]
			changes = append(changes, PortChange{
				Name:  C.GoString((*C.char)(unsafe.Pointer(&change.name))),
				Wire:  C.GoString((*C.char)(unsafe.Pointer(&change.wire))),
				State: PortState(change.state),
			})
		}
		if err != nil || int(count) < len(list) {
			return changes, err
		}
	}
}
