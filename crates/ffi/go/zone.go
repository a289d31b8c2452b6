package portcullis

/*
#include "bridge.h"
*/
import "C"

// Zone is an address space of its own, to which tunnels lead ([Config.Tunnels]): tenants may use the same
// addresses. Its cluster and policies are its own; connections, workers, events and counters are the
// engine's. Packets of a zone to which nothing was applied are denied, and so is everything until the
// engine itself has something in force. Limits and rates of identities count equal numbers of different
// zones together.
type Zone struct {
	engine *Engine
	number uint16
}

// Zone is the zone of this number, from 1 on, whether anything was applied to it or not.
func (e *Engine) Zone(number uint16) Zone { return Zone{e, number} }

// Zones are the numbers of those that have something in force, ascending.
func (e *Engine) Zones() ([]uint16, error) {
	var list []uint16
	err := all(func(capacity int) (int, error) {
		zones := make([]C.uint16_t, capacity+1) // one more, so that there is a first
		var count C.size_t
		err := e.call("Zones", func(handle C.uintptr_t) C.int32_t {
			return C.bridge_engine_zones(handle, &zones[0], C.size_t(capacity), &count)
		})
		list = list[:0]
		for _, zone := range zones[:min(int(count), capacity)] {
			list = append(list, uint16(zone))
		}
		return int(count), err
	})
	return list, err
}

// Apply is [Engine.Apply] for this zone.
func (z Zone) Apply(cluster, policies []Document) (Applied, error) {
	var a arena
	defer a.free()
	c, p := a.documents(cluster), a.documents(policies)
	applied := C.portcullis_applied{struct_size: C.sizeof_portcullis_applied}
	err := z.engine.do("Apply", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_zone_apply(handle, C.uint16_t(z.number), c, C.size_t(len(cluster)), p,
			C.size_t(len(policies)), &applied)
	})
	return goApplied(&applied), err
}

// ApplyPolicies is [Engine.ApplyPolicies] for this zone.
func (z Zone) ApplyPolicies(cluster Cluster, policies PolicySet) (Applied, error) {
	if z.number == 0 {
		return Applied{}, &Error{Op: "ApplyPolicies", Status: BadValue, Text: "error: zone 0 is the engine itself"}
	}
	return z.engine.applyPolicies("ApplyPolicies", z.number, &cluster, &policies)
}

// Clear takes cluster and policies away: packets of the zone are denied from now on. Answers whether there
// was something.
func (z Zone) Clear() (bool, error) {
	var removed C.int
	err := z.engine.do("Clear", nil, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_zone_remove(handle, C.uint16_t(z.number), &removed)
	})
	return removed != 0, err
}

// Upsert is [Engine.Upsert] for this zone; [NoSuchZone] if nothing was applied to it yet.
func (z Zone) Upsert(endpoints ...Endpoint) (int, error) {
	var a arena
	defer a.free()
	list := a.endpoints(endpoints)
	var done C.size_t
	err := z.engine.do("Upsert", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_zone_upsert(handle, C.uint16_t(z.number), list, C.size_t(len(endpoints)), &done)
	})
	return int(done), err
}

// Remove is [Engine.Remove] for this zone.
func (z Zone) Remove(names ...EndpointName) (int, error) {
	var a arena
	defer a.free()
	list := a.names(names)
	var removed C.size_t
	err := z.engine.do("Remove", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_zone_remove_endpoints(handle, C.uint16_t(z.number), list, C.size_t(len(names)), &removed)
	})
	return int(removed), err
}

// Applied is what is in force; [NoSuchZone] if nothing is.
func (z Zone) Applied() (Applied, error) {
	applied := C.portcullis_applied{struct_size: C.sizeof_portcullis_applied}
	err := z.engine.do("Applied", nil, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_zone_applied(handle, C.uint16_t(z.number), &applied)
	})
	return goApplied(&applied), err
}

// Evaluate decides one flow between addresses of this zone, for people and tests, and answers the rule that
// decided as [Engine.Rule] does, or none. [NoSuchZone] if nothing is in force.
func (z Zone) Evaluate(flow Flow) (verdict Verdict, rule string, err error) {
	f := flow.c()
	v := C.uint8_t(Deny)
	rule, err = z.engine.text("Evaluate", func(handle C.uintptr_t, buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_zone_evaluate(handle, C.uint16_t(z.number), &f, &v, buffer, size, needed)
	})
	return Verdict(v), rule, err
}
