package portcullis

/*
#include "bridge.h"
*/
import "C"

import "unsafe"

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
	// Data is YAML or JSON, several documents separated by "---": for example what json.Marshal makes of
	// the types of k8s.io/api.
	Data []byte
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

// SetCluster replaces the cluster (namespaces, pods, nodes) and leaves the policies. All else is as in
// [Engine.Apply].
func (e *Engine) SetCluster(cluster []Document) (Applied, error) {
	var a arena
	defer a.free()
	c := a.documents(cluster)
	applied := C.portcullis_applied{struct_size: C.sizeof_portcullis_applied}
	err := e.do("SetCluster", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_set_cluster(handle, c, C.size_t(len(cluster)), &applied)
	})
	return goApplied(&applied), err
}

// SetPolicies replaces the policies and leaves the cluster, endpoints that came and went included. All else
// is as in [Engine.Apply].
func (e *Engine) SetPolicies(policies []Document) (Applied, error) {
	var a arena
	defer a.free()
	p := a.documents(policies)
	applied := C.portcullis_applied{struct_size: C.sizeof_portcullis_applied}
	err := e.do("SetPolicies", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_set_policies(handle, p, C.size_t(len(policies)), &applied)
	})
	return goApplied(&applied), err
}

// Applied is what is in force.
func (e *Engine) Applied() (Applied, error) {
	applied := C.portcullis_applied{struct_size: C.sizeof_portcullis_applied}
	err := e.call("Applied", func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_applied(handle, &applied)
	})
	return goApplied(&applied), err
}

// Prove proves, exhaustively, that the program in force says what the policies say, and answers how
// many regions of headers were compared. [BadProof], and the error says where the two differ, if not.
// Takes longer than applying; changes wait for it, judging does not.
func (e *Engine) Prove() (regions uint64, err error) {
	var compared C.uint64_t
	err = e.do("Prove", nil, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_prove(handle, &compared)
	})
	return uint64(compared), err
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

// Stage judges by these policies too, from now on, over the same cluster and without any effect on
// packets: every new connection, and every packet that the policies in force deny. Where the two
// differ, events ([Event.Staged]) and [Totals] say so. Replaces what was staged before; if it fails
// that goes on.
func (e *Engine) Stage(policies []Document) error {
	var a arena
	defer a.free()
	p := a.documents(policies)
	return e.do("Stage", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_stage(handle, p, C.size_t(len(policies)))
	})
}

// Unstage ends [Engine.Stage]; fine if nothing is staged.
func (e *Engine) Unstage() error {
	return e.call("Unstage", func(handle C.uintptr_t) C.int32_t { return C.bridge_engine_unstage(handle) })
}

// Staged is how many policies are staged; 0 if nothing is. [BadPolicy], and the error says why, if
// what was staged came to an end by itself: the cluster has become too much for it.
func (e *Engine) Staged() (int, error) {
	var count C.size_t
	err := e.do("Staged", nil, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_staged(handle, &count)
	})
	return int(count), err
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

func goApplied(a *C.portcullis_applied) Applied {
	return Applied{
		Generation: uint64(a.generation),
		Policies:   uint64(a.policies),
		Endpoints:  uint64(a.endpoints),
		Identities: uint64(a.identities),
	}
}
