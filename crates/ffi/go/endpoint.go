package portcullis

/*
#include "bridge.h"
*/
import "C"

import (
	"encoding/json"
	"net/netip"
	"unsafe"
)

// Endpoint is a pod, or whatever else owns addresses.
type Endpoint struct {
	// Namespace and Name tell endpoints apart.
	Namespace, Name string
	// ServiceAccount is "default" if empty.
	ServiceAccount string
	// Node it runs on; empty if unknown.
	Node string
	// Labels that policies select by.
	Labels map[string]string
	// Ports that rules may name.
	Ports []NamedPort
	// Addresses, any number of each family.
	Addresses []netip.Addr
	// HostNetwork: it shares its node's network. Policies then do not apply to it.
	HostNetwork bool
}

// NamedPort is a port of an endpoint that rules may name.
type NamedPort struct {
	Name     string
	Protocol uint8 // 6 (TCP), 17 (UDP), 132 (SCTP)
	Port     uint16
}

// EndpointName tells endpoints apart.
type EndpointName struct{ Namespace, Name string }

// Upsert adds endpoints, or replaces those of the same namespace and name, one after the other. Each
// is in force when the next begins; the first that is refused ends the call. Answers how many are in
// force.
func (e *Engine) Upsert(endpoints ...Endpoint) (int, error) {
	var a arena
	defer a.free()
	list := a.endpoints(endpoints)
	var done C.size_t
	err := e.do("Upsert", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_upsert(handle, list, C.size_t(len(endpoints)), &done)
	})
	return int(done), err
}

// Remove takes endpoints out: their addresses are then outside the cluster. Answers how many were
// there.
func (e *Engine) Remove(names ...EndpointName) (int, error) {
	var a arena
	defer a.free()
	start := a.names(names)
	var removed C.size_t
	err := e.do("Remove", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_remove(handle, start, C.size_t(len(names)), &removed)
	})
	return int(removed), err
}

// ReplaceEndpoints makes the endpoints exactly these, all at once: no packet is judged by a mix.
func (e *Engine) ReplaceEndpoints(endpoints []Endpoint) error {
	var a arena
	defer a.free()
	list := a.endpoints(endpoints)
	return e.do("ReplaceEndpoints", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_replace(handle, list, C.size_t(len(endpoints)))
	})
}

// Endpoints are those that there are now, by namespace and name.
func (e *Engine) Endpoints() ([]Endpoint, error) {
	text, err := e.text("Endpoints", func(handle C.uintptr_t, buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_engine_endpoints(handle, buffer, size, needed)
	})
	if err != nil {
		return nil, err
	}
	var found []struct {
		Namespace, Name, Node string
		ServiceAccount        string `json:"service_account"`
		HostNetwork           bool   `json:"host_network"`
		Labels                map[string]string
		Ports                 []NamedPort
		Addresses             []netip.Addr
	}
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		return nil, &Error{Op: "Endpoints", Status: Internal, Text: "error: " + err.Error()}
	}
	endpoints := make([]Endpoint, len(found))
	for n, of := range found {
		endpoints[n] = Endpoint{
			Namespace: of.Namespace, Name: of.Name, ServiceAccount: of.ServiceAccount, Node: of.Node,
			Labels: of.Labels, Ports: of.Ports, Addresses: of.Addresses, HostNetwork: of.HostNetwork,
		}
	}
	return endpoints, nil
}

func (a *arena) names(names []EndpointName) *C.portcullis_endpoint_name {
	start := (*C.portcullis_endpoint_name)(a.alloc(len(names), C.sizeof_portcullis_endpoint_name))
	list := unsafe.Slice(start, len(names))
	for i, name := range names {
		list[i].namespace_name, list[i].name = a.text(name.Namespace), a.text(name.Name)
	}
	return start
}

// labels are C's, and how many.
func (a *arena) labels(labels map[string]string) (*C.portcullis_label, C.size_t) {
	start := (*C.portcullis_label)(a.alloc(len(labels), C.sizeof_portcullis_label))
	n := 0
	for key, value := range labels {
		label := &unsafe.Slice(start, len(labels))[n]
		label.key, label.value = a.text(key), a.text(value)
		n++
	}
	return start, C.size_t(len(labels))
}

// addresses are C's, and how many.
func (a *arena) addresses(addresses []netip.Addr) (*C.portcullis_address, C.size_t) {
	start := (*C.portcullis_address)(a.alloc(len(addresses), C.sizeof_portcullis_address))
	for n, ip := range addresses {
		unsafe.Slice(start, len(addresses))[n] = address(ip.Unmap())
	}
	return start, C.size_t(len(addresses))
}

func (a *arena) endpoints(endpoints []Endpoint) *C.portcullis_endpoint {
	start := (*C.portcullis_endpoint)(a.alloc(len(endpoints), C.sizeof_portcullis_endpoint))
	list := unsafe.Slice(start, len(endpoints))
	for i := range endpoints {
		from, to := &endpoints[i], &list[i]
		to.namespace_name, to.name = a.text(from.Namespace), a.text(from.Name)
		to.service_account, to.node = a.optional(from.ServiceAccount), a.optional(from.Node)
		to.labels, to.label_count = a.labels(from.Labels)
		to.named_ports = (*C.portcullis_named_port)(
			a.alloc(len(from.Ports), C.sizeof_portcullis_named_port))
		to.named_port_count = C.size_t(len(from.Ports))
		for n, port := range from.Ports {
			named := &unsafe.Slice(to.named_ports, len(from.Ports))[n]
			named.name = a.text(port.Name)
			named.protocol, named.port = C.uint8_t(port.Protocol), C.uint16_t(port.Port)
		}
		to.addresses, to.address_count = a.addresses(from.Addresses)
		to.host_network = flag(from.HostNetwork)
	}
	return start
}
