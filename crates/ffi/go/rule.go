package portcullis

/*
#include "bridge.h"
*/
import "C"

import (
	"strings"
	"unsafe"
)

// RuleName is a rule, or all rules of a policy, as people name them.
type RuleName struct {
	// Policy as events name it, such as "NetworkPolicy/shop/web".
	Policy string
	// Direction: its rules of one; 0: of both.
	Direction Direction
	// Index is the place of one rule in that direction, from 0; nil: all, and the end of the policy's tier
	// where that decides.
	Index *uint32
}

// Unit is what a rate counts.
type Unit uint8

// The units.
const (
	Packets Unit = C.PORTCULLIS_PACKETS // packets
	Bytes   Unit = C.PORTCULLIS_BYTES   // bytes of frames, Ethernet header included
)

// Rate is how many packets or bytes may pass: a token bucket.
type Rate struct {
	Unit Unit
	// PerSecond, on average; 0 lets nothing pass.
	PerSecond uint64
	// Burst may pass at once after a silence; as much as in a second unless set. Bytes: at least those of
	// the longest packet, or that never passes.
	Burst uint64
}

// RuleRate is the rate of a rule: each rule that the name means has a bucket of its own.
type RuleRate struct {
	Rule RuleName
	Rate Rate
}

// Rates are how many packets may pass.
type Rates struct {
	// Identity is the rate of the connections that each identity opened, both ways; nil: no limit.
	Identity *Rate
	// Rules are the rates of the connections that a rule allowed, both ways. Of several that mean one rule
	// the last counts.
	Rules []RuleRate
}

// Mirrored says which packets are copied.
type Mirrored struct {
	// Verdicts of these packets; none: any.
	Verdicts []Verdict
	// Rules that decided of them; none: any rule, or no rule.
	Rules []RuleName
}

// LimitRates limits how many packets pass, from now on, instead of what was limited before; packets beyond
// are dropped. The zero value limits nothing. Names may be of rules that are loaded later
// ([Engine.UnknownRules]).
func (e *Engine) LimitRates(rates Rates) error {
	var a arena
	defer a.free()
	var identity *C.portcullis_rate
	if rates.Identity != nil {
		identity = (*C.portcullis_rate)(a.alloc(1, C.sizeof_portcullis_rate))
		*identity = rates.Identity.c()
	}
	count := len(rates.Rules)
	rules := (*C.portcullis_rule_rate)(a.alloc(count, C.sizeof_portcullis_rule_rate))
	for n, rule := range rates.Rules {
		c := &unsafe.Slice(rules, count)[n]
		c.rule, c.rate = a.ruleName(rule.Rule), rule.Rate.c()
	}
	return e.do("LimitRates", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_limit_rates(handle, identity, rules, C.size_t(count))
	})
}

// Mirror copies packets to the interface [Wire.Mirror] from now on, instead of what was copied before; nil:
// none. Packets of judges are not: their caller has them. Names may be of rules that are loaded later
// ([Engine.UnknownRules]).
func (e *Engine) Mirror(mirrored *Mirrored) error {
	var a arena
	defer a.free()
	var c *C.portcullis_mirrored
	if mirrored != nil {
		c = (*C.portcullis_mirrored)(a.alloc(1, C.sizeof_portcullis_mirrored))
		c.struct_size = C.sizeof_portcullis_mirrored
		for _, verdict := range mirrored.Verdicts {
			if verdict > Reject {
				return &Error{Op: "Mirror", Status: BadValue, Text: "error: " + verdict.String()}
			}
			c.verdicts |= 1 << verdict
		}
		count := len(mirrored.Rules)
		c.rules = (*C.portcullis_rule_name)(a.alloc(count, C.sizeof_portcullis_rule_name))
		c.rule_count = C.size_t(count)
		for n, rule := range mirrored.Rules {
			unsafe.Slice(c.rules, count)[n] = a.ruleName(rule)
		}
	}
	return e.do("Mirror", &a, func(handle C.uintptr_t) C.int32_t { return C.bridge_engine_mirror(handle, c) })
}

// UnknownRules are the names given to [Engine.LimitRates] and [Engine.Mirror] that no rule loaded so far
// has, as "policy [ingress|egress] [rule N]": perhaps misspelt.
func (e *Engine) UnknownRules() ([]string, error) {
	text, err := e.text("UnknownRules", func(handle C.uintptr_t, buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_engine_unknown_rules(handle, buffer, size, needed)
	})
	if err != nil || text == "" {
		return nil, err
	}
	return strings.Split(text, "\n"), nil
}

func (a *arena) ruleName(name RuleName) C.portcullis_rule_name {
	c := C.portcullis_rule_name{policy: a.text(name.Policy), direction: C.uint8_t(name.Direction)}
	if name.Index != nil {
		c.one, c.index = 1, C.uint32_t(*name.Index)
	}
	return c
}

func (r Rate) c() C.portcullis_rate {
	return C.portcullis_rate{
		unit: C.uint8_t(r.Unit), per_second: C.uint64_t(r.PerSecond), burst: C.uint64_t(r.Burst),
	}
}
