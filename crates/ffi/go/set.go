package portcullis

/*
#include "bridge.h"
*/
import "C"

import (
	"net/netip"
	"strconv"
	"strings"
)

// Set is a set of CIDRs that the policies declare.
type Set struct {
	Name     string // as policies have it: "GlobalNetworkSet//feed", "NetworkSet/shop/partners"
	Prefixes int    // how many it holds
}

// ReplaceSet makes a set that the policies declare hold exactly these prefixes, all at once; it keeps
// them when policies are applied again. A million take some 0.2 s, in which packets
// are judged by what was before, and endpoints come and go.
//
// The name is as policies have it: "GlobalNetworkSet//feed", "NetworkSet/shop/partners".
func (e *Engine) ReplaceSet(name string, prefixes []netip.Prefix) error {
	var a arena
	defer a.free()
	n := a.text(name)
	list := make([]C.portcullis_prefix, len(prefixes)+1) // one more, so that there is a first
	for i, prefix := range prefixes {
		list[i] = cPrefix(prefix)
	}
	return e.do("ReplaceSet", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_replace_set(handle, n, &list[0], C.size_t(len(prefixes)))
	})
}

// ForgetSet lets the documents say again what a set holds, from the next [Engine.Apply] on. Answers
// whether it had been replaced.
func (e *Engine) ForgetSet(name string) (bool, error) {
	var a arena
	defer a.free()
	n := a.text(name)
	var forgotten C.int
	err := e.do("ForgetSet", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_forget_set(handle, n, &forgotten)
	})
	return forgotten != 0, err
}

// Sets lists the sets that the policies declare.
func (e *Engine) Sets() ([]Set, error) {
	text, err := e.text("Sets", func(handle C.uintptr_t, buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_engine_sets(handle, buffer, size, needed)
	})
	if err != nil || text == "" {
		return nil, err
	}
	var sets []Set
	for _, line := range strings.Split(text, "\n") {
		count, name, _ := strings.Cut(line, " ")
		prefixes, err := strconv.Atoi(count)
		if err != nil {
			return nil, &Error{Op: "Sets", Status: Internal, Text: "error: a line that is none: " + line}
		}
		sets = append(sets, Set{Name: name, Prefixes: prefixes})
	}
	return sets, nil
}

func cPrefix(prefix netip.Prefix) C.portcullis_prefix {
	out := C.portcullis_prefix{address: address(prefix.Addr()), length: C.uint8_t(prefix.Bits())}
	if !prefix.IsValid() {
		out.address.family = 0
	}
	return out
}
