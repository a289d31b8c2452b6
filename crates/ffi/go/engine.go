package portcullis

/*
#include "bridge.h"
*/
import "C"

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// Engine holds policies over a cluster, and connections. Before something is applied every IP packet
// is dropped. Methods may be called by any goroutines; changes wait for each other, judges never wait.
type Engine struct {
	handle atomic.Uintptr
	// Serialises calls that may leave a text of what went wrong.
	change sync.Mutex
	reader reader
}

// New makes an engine with nothing in force. Close it when done.
func New(config Config) (*Engine, error) {
	if err := checkABI(); err != nil {
		return nil, err
	}
	var a arena
	defer a.free()
	c, err := config.c(&a)
	if err != nil {
		return nil, err
	}
	var handle C.uintptr_t
	if status := Status(C.bridge_engine_new(c, &handle)); status != ok {
		return nil, &Error{Op: "New", Status: status}
	}
	e := &Engine{}
	e.handle.Store(uintptr(handle))
	if err := e.reader.open(handle); err != nil {
		C.bridge_engine_free(handle)
		return nil, err
	}
	runtime.SetFinalizer(e, (*Engine).Close)
	return e, nil
}

// Close frees the engine. Its judges and firewalls keep what they need until they are closed too.
// Waits for nobody: calls of other goroutines end as if the engine were still there, or with
// [ErrClosed]. Closing again does nothing.
func (e *Engine) Close() error {
	handle := e.handle.Swap(0)
	if handle == 0 {
		return nil
	}
	runtime.SetFinalizer(e, nil)
	e.reader.close()
	return check("Close", Status(C.bridge_engine_free(C.uintptr_t(handle))))
}

// SetTime moves the clock of an engine that was made with [Config.VirtualClock] on, to so long after its
// beginning; an earlier time than it shows is ignored. [BadValue] for other engines.
func (e *Engine) SetTime(sinceBeginning time.Duration) error {
	if sinceBeginning < 0 {
		return &Error{Op: "SetTime", Status: BadValue, Text: "error: a time below zero"}
	}
	return e.do("SetTime", nil, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_set_time(handle, C.uint64_t(sinceBeginning))
	})
}

// Explain says for people why a flow is decided as it is: the tiers walked, the rule with file and
// line, near misses.
func (e *Engine) Explain(flow Flow) (string, error) {
	f := flow.c()
	return e.text("Explain", func(handle C.uintptr_t, buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_engine_explain(handle, &f, buffer, size, needed)
	})
}

// Rule is the rule of a judgement, as "policy direction file:line:column", also if its policy is gone.
// [BadValue] if there is none.
func (e *Engine) Rule(rule uint32) (string, error) {
	return e.text("Rule", func(handle C.uintptr_t, buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_engine_rule(handle, C.uint32_t(rule), buffer, size, needed)
	})
}

// EventFD is a descriptor that is readable when events wait, for an event loop of the program's own;
// [Engine.Events] waits without it. It is the engine's: neither read nor close it, and forget it
// before the engine is closed.
func (e *Engine) EventFD() (int, error) {
	var fd C.int
	err := e.call("EventFD", func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_event_fd(handle, &fd)
	})
	return int(fd), err
}

// call runs a call that leaves no text behind.
func (e *Engine) call(op string, run func(C.uintptr_t) C.int32_t) error {
	handle := e.handle.Load()
	if handle == 0 {
		return ErrClosed
	}
	status := Status(run(C.uintptr_t(handle)))
	runtime.KeepAlive(e)
	return check(op, status)
}

// do runs a call that may leave a text behind, and fetches it.
func (e *Engine) do(op string, a *arena, run func(C.uintptr_t) C.int32_t) error {
	if a != nil && a.nul {
		return &Error{Op: op, Status: BadValue, Text: "error: a text with a NUL inside"}
	}
	e.change.Lock()
	defer e.change.Unlock()
	return withText(e.call(op, run), func(buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_engine_error(C.uintptr_t(e.handle.Load()), buffer, size, needed)
	})
}

// withText adds to an error what the library has to say of it.
func withText(err error, read func(*C.char, C.size_t, *C.size_t) C.int32_t) error {
	failed, is := err.(*Error)
	if !is || failed.Status < Refused && failed.Status != BadValue {
		return err
	}
	if text, status := readText(read); status == ok {
		failed.Text = text
	}
	return failed
}

// text runs a call that answers text.
func (e *Engine) text(
	op string, run func(C.uintptr_t, *C.char, C.size_t, *C.size_t) C.int32_t,
) (text string, err error) {
	err = e.do(op, nil, func(handle C.uintptr_t) C.int32_t {
		var status Status
		text, status = readText(func(buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
			return run(handle, buffer, size, needed)
		})
		return C.int32_t(status)
	})
	return text, err
}

// readText asks for the size, then for the text, and again if it grew meanwhile.
func readText(run func(*C.char, C.size_t, *C.size_t) C.int32_t) (string, Status) {
	var needed C.size_t
	if status := Status(run(nil, 0, &needed)); status != ok {
		return "", status
	}
	for {
		buffer := make([]byte, needed)
		status := Status(run((*C.char)(unsafe.Pointer(&buffer[0])), needed, &needed))
		switch {
		case status == ok && int(needed) <= len(buffer):
			return string(buffer[:needed-1]), ok
		case status != tooSmall:
			return "", status
		}
	}
}

func check(op string, status Status) error {
	switch status {
	case ok:
		return nil
	case C.PORTCULLIS_BAD_HANDLE:
		return ErrClosed // closed while the call was on its way
	}
	return &Error{Op: op, Status: status}
}

func flag(value bool) C.uint8_t {
	if value {
		return 1
	}
	return 0
}
