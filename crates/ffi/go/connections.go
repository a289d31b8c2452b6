package portcullis

/*
#include "bridge.h"
*/
import "C"

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

// Windows says whether the windows of saved TCP connections still hold.
type Windows uint8

// Whether they do.
const (
	WindowsHold  Windows = C.PORTCULLIS_WINDOWS_HOLD  // nothing passed meanwhile, as with FailClosed (the default)
	WindowsMoved Windows = C.PORTCULLIS_WINDOWS_MOVED // packets passed unseen, as with FailOpen
)

// Restored is what was read from a file of connections.
type Restored struct {
	Restored uint32        // connections that are in the table now
	LeftOut  uint32        // the table is full or knows them already, or they were silent for days
	Age      time.Duration // since they were saved, by the wall clock
}

// SaveConnections writes all connections, for [Engine.RestoreConnections] of the next process, and answers
// how many. Packets go on meanwhile: for a file that is exact call [Firewall.Halt] first. Who can write the
// file can add connections that the policy would have allowed: keep it as private as the policies, and
// replace it as a whole (a new file, synced, then renamed).
func (e *Engine) SaveConnections(w io.Writer) (int, error) {
	from, to, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(w, from)
		// The library must not write to a pipe that nobody reads.
		_, _ = io.Copy(io.Discard, from)
		copied <- err
	}()
	var saved C.uint32_t
	fd := C.int(to.Fd()) // from now on it blocks, as the library wants it
	err = e.do("SaveConnections", nil, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_save(handle, fd, &saved)
	})
	to.Close()
	failed := <-copied
	from.Close()
	if err == nil {
		err = failed
	}
	return int(saved), err
}

// RestoreConnections takes saved connections into the table, beside those that are there; the age of the
// file counts as silence of each. Best after the first [Engine.Apply] and before [Engine.Start]. Each is
// judged by the policy in force at its next packet. Reads to the end. [BadFile] if the file is none, of
// another version, damaged, from the future or too large: nothing is taken from it then, and to start
// without it is right.
func (e *Engine) RestoreConnections(r io.Reader, windows Windows) (Restored, error) {
	from, to, err := os.Pipe()
	if err != nil {
		return Restored{}, err
	}
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(to, r)
		to.Close()
		copied <- err
	}()
	out := C.portcullis_restored{struct_size: C.sizeof_portcullis_restored}
	fd := C.int(from.Fd())
	err = e.do("RestoreConnections", nil, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_restore(handle, fd, C.uint8_t(windows), &out)
	})
	// What was not read is of no interest, and whoever still writes it is told so.
	from.Close()
	if failed := <-copied; failed != nil && !errors.Is(failed, syscall.EPIPE) {
		err = failed
	}
	restored := Restored{
		Restored: uint32(out.restored),
		LeftOut:  uint32(out.left_out),
		Age:      time.Duration(out.age_ms) * time.Millisecond,
	}
	return restored, err
}
