package portcullis

/*
#include "bridge.h"
*/
import "C"

import "net/netip"

// Connection is one that is open.
type Connection struct {
	// Source opened it, to Destination. Ports are 0 where the protocol has none.
	Source, Destination netip.AddrPort
	Protocol            uint8     // IP protocol number
	Rule                uint32    // that allowed it, for [Engine.Rule]; else NoRule
	Packets             [2]uint64 // from the opener, and back
	Bytes               [2]uint64 // of IP packets, from the opener, and back
}

// Connections lists those that are open now, in no order. A million take tens of milliseconds, in which
// judging is a little slower.
func (e *Engine) Connections() ([]Connection, error) {
	var list []C.portcullis_connection
	err := all(func(capacity int) (int, error) {
		list = make([]C.portcullis_connection, capacity+1) // one more, so that there is a first
		var count C.size_t
		err := e.call("Connections", func(handle C.uintptr_t) C.int32_t {
			return C.bridge_engine_connections(handle, &list[0], C.size_t(capacity), &count)
		})
		list = list[:min(int(count), capacity)]
		return int(count), err
	})
	connections := make([]Connection, len(list))
	for n := range list {
		c := &list[n]
		connections[n] = Connection{
			Source:      netip.AddrPortFrom(goAddress(&c.source), uint16(c.source_port)),
			Destination: netip.AddrPortFrom(goAddress(&c.destination), uint16(c.destination_port)),
			Protocol:    uint8(c.protocol),
			Rule:        uint32(c.rule),
			Packets:     [2]uint64{uint64(c.packets[0]), uint64(c.packets[1])},
			Bytes:       [2]uint64{uint64(c.bytes[0]), uint64(c.bytes[1])},
		}
	}
	return connections, err
}

// Owner is the endpoint that owns an address now, as "namespace/name"; empty if none does.
func (e *Engine) Owner(of netip.Addr) (string, error) {
	a := address(of.Unmap())
	return e.text("Owner", func(handle C.uintptr_t, buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_engine_owner(handle, &a, buffer, size, needed)
	})
}

// Addresses are those that an endpoint has now; [BadValue] if there is none of this name.
func (e *Engine) Addresses(of EndpointName) ([]netip.Addr, error) {
	var a arena
	defer a.free()
	namespace, name := a.text(of.Namespace), a.text(of.Name)
	var list []C.portcullis_address
	err := all(func(capacity int) (int, error) {
		list = make([]C.portcullis_address, capacity+1)
		var count C.size_t
		err := e.do("Addresses", &a, func(handle C.uintptr_t) C.int32_t {
			return C.bridge_engine_addresses(handle, namespace, name, &list[0], C.size_t(capacity), &count)
		})
		list = list[:min(int(count), capacity)]
		return int(count), err
	})
	if err != nil {
		return nil, err
	}
	addresses := make([]netip.Addr, len(list))
	for n := range list {
		addresses[n] = goAddress(&list[n])
	}
	return addresses, nil
}
