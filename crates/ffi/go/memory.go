package portcullis

/*
#include "bridge.h"
*/
import "C"

import (
	"net/netip"
	"strings"
	"unsafe"
)

// arena is C memory that lives for one call: what C follows pointers into must not be Go's.
type arena struct {
	blocks []unsafe.Pointer
	// nul: some text had a NUL inside, which would hide what follows it.
	nul bool
}

func (a *arena) free() {
	for _, block := range a.blocks {
		C.free(block)
	}
	a.blocks = nil
}

// alloc is zeroed room for count values of size bytes, NULL if there are none.
func (a *arena) alloc(count int, size uintptr) unsafe.Pointer {
	if count == 0 {
		return nil
	}
	block := C.calloc(C.size_t(count), C.size_t(size))
	if block == nil {
		panic("portcullis: out of memory")
	}
	a.blocks = append(a.blocks, block)
	return block
}

// text is a NUL-terminated copy.
func (a *arena) text(s string) *C.char {
	a.nul = a.nul || strings.IndexByte(s, 0) >= 0
	text := C.CString(s)
	a.blocks = append(a.blocks, unsafe.Pointer(text))
	return text
}

// optional is text, or NULL if there is none.
func (a *arena) optional(s string) *C.char {
	if s == "" {
		return nil
	}
	return a.text(s)
}

// bytes is a copy.
func (a *arena) bytes(b []byte) *C.uint8_t {
	if len(b) == 0 {
		return nil
	}
	block := C.CBytes(b)
	a.blocks = append(a.blocks, block)
	return (*C.uint8_t)(block)
}

// address is what C calls an address; an address that is not valid has family 0, which is refused.
func address(a netip.Addr) (out C.portcullis_address) {
	switch {
	case a.Is4():
		out.family = 4
		for i, b := range a.As4() {
			out.bytes[i] = C.uint8_t(b)
		}
	case a.Is6():
		out.family = 6
		for i, b := range a.As16() {
			out.bytes[i] = C.uint8_t(b)
		}
	}
	return out
}

func goAddress(a *C.portcullis_address) netip.Addr {
	bytes := *(*[16]byte)(unsafe.Pointer(&a.bytes))
	switch a.family {
	case 4:
		return netip.AddrFrom4([4]byte{bytes[0], bytes[1], bytes[2], bytes[3]})
	case 6:
		return netip.AddrFrom16(bytes)
	}
	return netip.Addr{}
}
