package portcullis

/*
#include "bridge.h"
*/
import "C"

import (
	"fmt"
	"runtime"
	"unsafe"
)

// built is a PolicySet in the library's memory.
type built struct {
	handle C.uintptr_t
	op     string
	sets   map[string]uint32
}

// build copies policies into the library; the error names the policy, the rule and the field.
func build(op string, policies *PolicySet) (*built, error) {
	b := &built{op: op, sets: map[string]uint32{}}
	if status := Status(C.bridge_policies_new(&b.handle)); status != ok {
		return nil, &Error{Op: op, Status: status}
	}
	runtime.SetFinalizer(b, (*built).free)
	if err := b.fill(policies); err != nil {
		b.free()
		return nil, err
	}
	return b, nil
}

func (b *built) free() {
	C.bridge_policies_free(b.handle)
	runtime.SetFinalizer(b, nil)
	b.handle = 0
}

func (b *built) fill(policies *PolicySet) error {
	for n := range policies.Sets {
		set := &policies.Sets[n]
		prefixes := make([]C.portcullis_prefix, len(set.Prefixes)+1) // one more, so that there is a first
		for i, prefix := range set.Prefixes {
			prefixes[i] = cPrefix(prefix)
		}
		err := b.add(func(a *arena, number *C.uint32_t) (C.int32_t, error) {
			return C.bridge_policies_add_set(b.handle, a.text(set.Name), &prefixes[0],
				C.size_t(len(set.Prefixes)), number), nil
		}, func(number uint32) { b.sets[set.Name] = number })
		if err != nil {
			return err
		}
	}
	for n := range policies.Tiers {
		tier := &policies.Tiers[n]
		var at uint32
		err := b.add(func(a *arena, number *C.uint32_t) (C.int32_t, error) {
			return C.bridge_policies_add_tier(b.handle, a.text(tier.Name), C.uint8_t(tier.End), number), nil
		}, func(number uint32) { at = number })
		if err != nil {
			return err
		}
		for m := range tier.Policies {
			if err := b.policy(at, &tier.Policies[m]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *built) policy(tier uint32, policy *Policy) error {
	var at uint32
	err := b.add(func(a *arena, number *C.uint32_t) (C.int32_t, error) {
		c := (*C.portcullis_policy)(a.alloc(1, C.sizeof_portcullis_policy))
		c.struct_size = C.sizeof_portcullis_policy
		c.tier, c.kind = C.uint32_t(tier), C.uint8_t(policy.Kind)
		c.staged, c.directions = flag(policy.Staged), C.uint8_t(policy.Directions)
		c.namespace_name, c.name = a.optional(policy.Namespace), a.text(policy.Name)
		c.origin = a.origin(policy.Origin)
		var err error
		c.subject, err = b.match(a, fmt.Sprintf("policy %s: subject", policy.Name), []Match{policy.Subject})
		if err != nil {
			return 0, err
		}
		return C.bridge_policies_add_policy(b.handle, c, number), nil
	}, func(number uint32) { at = number })
	if err != nil {
		return err
	}
	for n := range policy.Ingress {
		if err := b.rule(at, Ingress, policy, n, &policy.Ingress[n]); err != nil {
			return err
		}
	}
	for n := range policy.Egress {
		if err := b.rule(at, Egress, policy, n, &policy.Egress[n]); err != nil {
			return err
		}
	}
	return nil
}

func (b *built) rule(at uint32, direction Direction, policy *Policy, n int, rule *Rule) error {
	field := func(name string) string {
		way := map[Direction]string{Ingress: "ingress", Egress: "egress"}[direction]
		return fmt.Sprintf("policy %s: %s rule %d: %s", policy.Name, way, n, name)
	}
	return b.add(func(a *arena, _ *C.uint32_t) (C.int32_t, error) {
		c := (*C.portcullis_rule)(a.alloc(1, C.sizeof_portcullis_rule))
		c.struct_size = C.sizeof_portcullis_rule
		c.policy, c.direction, c.action = C.uint32_t(at), C.uint8_t(direction), C.uint8_t(rule.Action)
		c.all_traffic, c.name, c.origin = flag(rule.AllTraffic), a.optional(rule.Name), a.origin(rule.Origin)
		var err error
		if c.source, err = b.match(a, field("source"), []Match{rule.Source}); err != nil {
			return 0, err
		}
		if c.destination, err = b.match(a, field("destination"), []Match{rule.Destination}); err != nil {
			return 0, err
		}
		c.traffic = (*C.portcullis_traffic)(a.alloc(len(rule.Traffic), C.sizeof_portcullis_traffic))
		c.traffic_count = C.size_t(len(rule.Traffic))
		for m := range rule.Traffic {
			a.traffic(&rule.Traffic[m], &unsafe.Slice(c.traffic, len(rule.Traffic))[m])
		}
		return C.bridge_policies_add_rule(b.handle, c), nil
	}, func(uint32) {})
}

// add runs a call that adds something, and takes the number that it has then.
func (b *built) add(run func(*arena, *C.uint32_t) (C.int32_t, error), done func(uint32)) error {
	var a arena
	defer a.free()
	var number C.uint32_t
	status, err := run(&a, &number)
	if err != nil {
		return err
	}
	if a.nul {
		return &Error{Op: b.op, Status: BadValue, Text: "error: a text with a NUL inside"}
	}
	if status == C.PORTCULLIS_OK {
		done(uint32(number))
		return nil
	}
	return withText(check(b.op, Status(status)), func(buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_policies_error(b.handle, buffer, size, needed)
	})
}

// match is C's array of the same expressions.
func (b *built) match(a *arena, field string, parts []Match) (*C.portcullis_match, error) {
	start := (*C.portcullis_match)(a.alloc(len(parts), C.sizeof_portcullis_match))
	for n := range parts {
		part, c := &parts[n], &unsafe.Slice(start, len(parts))[n]
		c.kind = C.uint8_t(part.kind)
		switch part.kind {
		case C.PORTCULLIS_MATCH_POD_LABELS, C.PORTCULLIS_MATCH_NAMESPACE_LABELS,
			C.PORTCULLIS_MATCH_SERVICE_ACCOUNT_LABELS, C.PORTCULLIS_MATCH_NODE_LABELS:
			if part.labels == nil {
				c.selector = a.text(part.selector)
			}
			c.labels, c.label_count = a.labels(part.labels)
		case C.PORTCULLIS_MATCH_NAMESPACE, C.PORTCULLIS_MATCH_SERVICE_ACCOUNT:
			c.name = a.text(part.name)
		case C.PORTCULLIS_MATCH_NAMESPACE_HAS:
			c.name, c.selector = a.text(part.name), a.text(part.selector)
		case C.PORTCULLIS_MATCH_CIDR:
			c.prefix = cPrefix(part.prefix)
		case C.PORTCULLIS_MATCH_SET:
			number, known := b.sets[part.name]
			if !known {
				text := fmt.Sprintf("error: %s: there is no set %q", field, part.name)
				return nil, &Error{Op: b.op, Status: BadValue, Text: text}
			}
			c.set = C.uint32_t(number)
		case C.PORTCULLIS_MATCH_NOT, C.PORTCULLIS_MATCH_ALL, C.PORTCULLIS_MATCH_ONE_OF:
			inner, err := b.match(a, field, part.parts)
			if err != nil {
				return nil, err
			}
			c.parts, c.part_count = inner, C.size_t(len(part.parts))
		}
	}
	return start, nil
}

func (a *arena) traffic(from *Traffic, to *C.portcullis_traffic) {
	to.ip_version = C.uint8_t(from.IPVersion)
	to.protocol_match, to.protocol = C.uint8_t(from.ProtocolMatch), C.uint8_t(from.Protocol)
	to.icmp, to.not_icmp = from.ICMP.c(), from.NotICMP.c()
	to.source_ports, to.source_port_count = a.ports(from.SourcePorts)
	to.not_source_ports, to.not_source_port_count = a.ports(from.NotSourcePorts)
	to.destination_ports, to.destination_port_count = a.ports(from.DestinationPorts)
	to.not_destination_ports, to.not_destination_port_count = a.ports(from.NotDestinationPorts)
}

func (a *arena) ports(ports []PortRange) (*C.portcullis_port_range, C.size_t) {
	start := (*C.portcullis_port_range)(a.alloc(len(ports), C.sizeof_portcullis_port_range))
	for n, port := range ports {
		c := &unsafe.Slice(start, len(ports))[n]
		c.name, c.first, c.last = a.optional(port.Name), C.uint16_t(port.First), C.uint16_t(port.Last)
	}
	return start, C.size_t(len(ports))
}

func (i *ICMP) c() (c C.portcullis_icmp) {
	if i == nil {
		return c
	}
	c.given = C.PORTCULLIS_ICMP_ANY
	if i.Type != nil {
		c.given |= C.PORTCULLIS_ICMP_TYPE
		c.icmp_type = C.uint8_t(*i.Type)
	}
	if i.Code != nil {
		c.given |= C.PORTCULLIS_ICMP_CODE
		c.icmp_code = C.uint8_t(*i.Code)
	}
	return c
}

func (a *arena) origin(origin Origin) C.portcullis_origin {
	return C.portcullis_origin{
		file: a.optional(origin.File), line: C.uint32_t(origin.Line), column: C.uint32_t(origin.Column),
	}
}
