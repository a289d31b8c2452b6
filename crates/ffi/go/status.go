package portcullis

/*
#cgo pkg-config: portcullis
#include "bridge.h"
*/
import "C"

import (
	"errors"
	"fmt"
)

// Status is what a call of the library answered if not success. It is an error, to be compared with
// [errors.Is]. A number never gets another meaning.
type Status int32

// Statuses that a Go program may meet.
const (
	Poisoned   Status = C.PORTCULLIS_POISONED     // an earlier call failed inside the library; close the handle
	Busy       Status = C.PORTCULLIS_BUSY         // another goroutine is in a call on this judge
	BadValue   Status = C.PORTCULLIS_BAD_VALUE    // a number that means nothing
	BadUTF8    Status = C.PORTCULLIS_BAD_UTF8     // text that is not UTF-8
	Refused    Status = C.PORTCULLIS_REFUSED      // documents were refused; the error has a line for each finding
	BadPolicy  Status = C.PORTCULLIS_POLICY       // the cluster contradicts itself, or the policies are too large
	BadPrefix  Status = C.PORTCULLIS_PREFIX       // an address or prefix that the address table does not take
	NoSuchSet  Status = C.PORTCULLIS_NO_SUCH_SET  // no policy declares a set of this name
	TableFull  Status = C.PORTCULLIS_TABLE_FULL   // the address table is full
	BadProof   Status = C.PORTCULLIS_PROOF        // the compiled policies failed their proof, a mistake inside the library
	NoSuchZone Status = C.PORTCULLIS_NO_SUCH_ZONE // nothing is in force in this zone
	BadFile    Status = C.PORTCULLIS_BAD_FILE     // not a file of connections that can be read; the error says why
	System     Status = C.PORTCULLIS_SYSTEM       // the system refused memory, a thread or a descriptor
	Interface  Status = C.PORTCULLIS_INTERFACE    // an interface cannot be used; the error says why and what to do
	NoSuchWire Status = C.PORTCULLIS_NO_SUCH_WIRE // the firewall has no wire of this name
	NoXDP      Status = C.PORTCULLIS_NO_XDP       // the library was built without AF_XDP
	Internal   Status = C.PORTCULLIS_INTERNAL     // a mistake inside the library; the handle is poisoned
	ok         Status = C.PORTCULLIS_OK
	tooSmall   Status = C.PORTCULLIS_TOO_SMALL
	abiVersion        = C.PORTCULLIS_ABI_VERSION
)

// Error says what the status means.
func (s Status) Error() string {
	return C.GoString(C.portcullis_status_text(C.int32_t(s)))
}

// Error is a call that failed. It wraps its [Status].
type Error struct {
	// Op is the method, such as "Apply".
	Op string
	// Status is what the library answered.
	Status Status
	// Text says what is wrong, where, and what to do, if the library knows more than the status.
	Text string
}

// Error joins the operation and the text.
func (e *Error) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("portcullis: %s: %v", e.Op, e.Status)
	}
	return fmt.Sprintf("portcullis: %s: %s", e.Op, e.Text)
}

// Unwrap is the status, so that [errors.Is] finds it.
func (e *Error) Unwrap() error { return e.Status }

// ErrClosed is what a closed engine, judge or firewall answers.
var ErrClosed = errors.New("portcullis: use of a closed handle")

// Version is that of the library that is loaded, such as "0.1.0".
func Version() string { return C.GoString(C.portcullis_version()) }

// checkABI compares the library that is loaded with the header that this package was compiled with.
func checkABI() error {
	if found := uint32(C.portcullis_abi_version()); found != abiVersion {
		return fmt.Errorf("portcullis: the library has ABI version %d, this program was built for %d",
			found, abiVersion)
	}
	return nil
}
