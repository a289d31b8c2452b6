package portcullis

/*
#include "bridge.h"
*/
import "C"

import "encoding/json"

// RuleInfo is a rule in parts.
type RuleInfo struct {
	Policy string // as "Kind/namespace/name"
	Tier   string // that the policy is in
	Name   string // the rule's own; empty if it has none
	// Direction and Index are its place in the policy, from 0, as [RuleName] has them.
	Direction Direction
	Index     uint32
	// TierEnd: it is the end of the tier that the policy is in, and has no Index.
	TierEnd bool
	Action  Action
	Staged  bool // the policy decides nothing and is told of
	// Origin is where it was written; for the end of a tier, where the policy was.
	Origin Origin
}

// Finding is what is probably a mistake, although it may be written.
type Finding struct {
	Level   string `json:"level"` // "note", "warning" or "error"
	Code    string `json:"code"`  // a stable name of what it is
	Message string `json:"message"`
	// Origin is where; nil if the reason is that something is nowhere written.
	Origin *struct {
		File   string `json:"file"`
		Line   uint32 `json:"line"`
		Column uint32 `json:"column"`
	} `json:"origin"`
}

// RuleInfo is the rule of a judgement in parts, also if its policy is gone. [BadValue] if there is none.
func (e *Engine) RuleInfo(rule uint32) (info RuleInfo, err error) {
	var a arena
	defer a.free()
	c := (*C.portcullis_rule_info)(a.alloc(1, C.sizeof_portcullis_rule_info))
	c.struct_size = C.sizeof_portcullis_rule_info
	err = e.do("RuleInfo", nil, func(handle C.uintptr_t) C.int32_t {
		size := C.size_t(1024)
		for {
			// C memory: the texts are pointed to from there.
			buffer := (*C.char)(a.alloc(int(size), 1))
			status := C.bridge_engine_rule_info(handle, C.uint32_t(rule), c, buffer, size, &size)
			if status != C.PORTCULLIS_TOO_SMALL {
				return status
			}
		}
	})
	if err != nil {
		return info, err
	}
	return RuleInfo{
		Policy:    C.GoString(c.policy),
		Tier:      C.GoString(c.tier),
		Name:      C.GoString(c.name),
		Direction: Direction(c.direction),
		Index:     uint32(c.index),
		TierEnd:   c.tier_end != 0,
		Action:    Action(c.action),
		Staged:    c.staged != 0,
		Origin:    Origin{File: C.GoString(c.file), Line: uint32(c.line), Column: uint32(c.column)},
	}, nil
}

// ExplainJSON is [Engine.Explain] as a JSON object: what "portcullis explain --json" prints.
func (e *Engine) ExplainJSON(flow Flow) (json.RawMessage, error) {
	f := flow.c()
	text, err := e.text("ExplainJSON", func(handle C.uintptr_t, buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_engine_explain_json(handle, &f, buffer, size, needed)
	})
	return json.RawMessage(text), err
}

// DiffJSON is [Engine.Diff] as a JSON object: what "portcullis diff --json" prints.
func (e *Engine) DiffJSON(cluster, policies []Document) (json.RawMessage, error) {
	var a arena
	defer a.free()
	c, p := a.documents(cluster), a.documents(policies)
	if a.nul {
		return nil, &Error{Op: "DiffJSON", Status: BadValue, Text: "error: a text with a NUL inside"}
	}
	text, err := e.text("DiffJSON", func(handle C.uintptr_t, buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_engine_diff_json(handle, c, C.size_t(len(cluster)), p, C.size_t(len(policies)),
			buffer, size, needed)
	})
	return json.RawMessage(text), err
}

// Reach says for people who can reach an endpoint by what is in force ([Ingress]), or whom it can reach
// ([Egress]): by rule, with protocols and ports. [BadValue] if there is no such endpoint, or it shares its
// node's network, where policies do not apply.
func (e *Engine) Reach(of EndpointName, direction Direction) (string, error) {
	return e.reach("Reach", of, direction, false)
}

// ReachJSON is [Engine.Reach] as a JSON object: what "portcullis reach --json" prints.
func (e *Engine) ReachJSON(of EndpointName, direction Direction) (json.RawMessage, error) {
	text, err := e.reach("ReachJSON", of, direction, true)
	return json.RawMessage(text), err
}

// Lint finds what is probably a mistake in policies over the cluster in force: rules that never have a say,
// policies that select nothing, doors left open, workloads cut off from what they need. Policies of nil are
// those in force.
func (e *Engine) Lint(policies []Document) ([]Finding, error) {
	var a arena
	defer a.free()
	p := a.documents(policies)
	if a.nul {
		return nil, &Error{Op: "Lint", Status: BadValue, Text: "error: a text with a NUL inside"}
	}
	text, err := e.text("Lint", func(handle C.uintptr_t, buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_engine_lint(handle, p, C.size_t(len(policies)), buffer, size, needed)
	})
	if err != nil {
		return nil, err
	}
	var findings []Finding
	err = json.Unmarshal([]byte(text), &findings)
	return findings, err
}

func (e *Engine) reach(op string, of EndpointName, direction Direction, asJSON bool) (string, error) {
	var a arena
	defer a.free()
	namespace, name := a.text(of.Namespace), a.text(of.Name)
	if a.nul {
		return "", &Error{Op: op, Status: BadValue, Text: "error: a text with a NUL inside"}
	}
	return e.text(op, func(handle C.uintptr_t, buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_engine_reach(handle, namespace, name, C.uint8_t(direction), flag(asJSON), buffer, size, needed)
	})
}
