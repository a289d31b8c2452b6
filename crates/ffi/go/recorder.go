package portcullis

/*
#include "bridge.h"
*/
import "C"

import (
	"bytes"
	"encoding/json"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// RecorderConfig holds the settings of a recorder; the zero value is all defaults.
type RecorderConfig struct {
	// Keep is what is recorded: "none", "denied", "all" (the default), or "1/N" for what is denied and
	// one connection in N.
	Keep string
	// Policies is what is recorded of flows that some policies decided; the first that fits counts, and
	// Keep if none does.
	Policies []PolicyKeep
	// Hubble gives records the form in which Cilium's Hubble prints flows ("hubble observe -o json"), with
	// Node as the name of this node.
	Hubble bool
	Node   string
	// Update is how often a connection that lasts is recorded again, a second at least; a minute unless
	// set, and never if it is negative.
	Update time.Duration
	// Denied is how long denials are summed up before they are recorded; 1 s unless set.
	Denied time.Duration
	// DeniedKinds is how many different denials are kept apart within that time; 4096 unless set.
	DeniedKinds uint32
	// Capacity is how many records wait at most; 65536 unless set. What does not fit is counted.
	Capacity uint32
}

// PolicyKeep is what is recorded of flows that some policies decided.
type PolicyKeep struct {
	// Policies as "Kind/namespace/name", each part a text or "*"; "default" is what no policy decided.
	Policies string
	// Keep is what is recorded, as in [RecorderConfig].
	Keep string
}

// Recorder makes flow records of an engine's events: one when a connection starts, when another rule
// decides of it, while it lasts and when it ends; denials are summed up. Methods may be called by any
// goroutines, and wait for each other.
type Recorder struct {
	handle atomic.Uintptr
	mutex  sync.Mutex
	buffer []byte
}

// NewRecorder makes a recorder. Each event goes to one reader only: use one recorder, and then neither
// another nor [Engine.Events]. Set [Config.DeniedBurst] so that floods are summed up early.
func (e *Engine) NewRecorder(config RecorderConfig) (*Recorder, error) {
	var a arena
	defer a.free()
	c := (*C.portcullis_recorder_config)(a.alloc(1, C.sizeof_portcullis_recorder_config))
	c.struct_size = C.sizeof_portcullis_recorder_config
	c.keep, c.node = a.optional(config.Keep), a.optional(config.Node)
	if config.Hubble {
		c.form = C.PORTCULLIS_FORM_HUBBLE
	}
	c.policies = (*C.portcullis_policy_keep)(a.alloc(len(config.Policies), C.sizeof_portcullis_policy_keep))
	c.policy_count = C.size_t(len(config.Policies))
	for n, of := range config.Policies {
		keep := &unsafe.Slice(c.policies, len(config.Policies))[n]
		keep.policies, keep.keep = a.text(of.Policies), a.text(of.Keep)
	}
	var err error
	if config.Update < 0 {
		c.update_ms = math.MaxUint32
	} else if c.update_ms, err = millis("NewRecorder", config.Update); err != nil {
		return nil, err
	}
	if c.denied_ms, err = millis("NewRecorder", config.Denied); err != nil {
		return nil, err
	}
	c.denied_kinds, c.capacity = C.uint32_t(config.DeniedKinds), C.uint32_t(config.Capacity)
	var out C.uintptr_t
	err = e.do("NewRecorder", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_recorder_new(handle, c, &out)
	})
	if err != nil {
		return nil, err
	}
	r := &Recorder{}
	r.handle.Store(uintptr(out))
	runtime.SetFinalizer(r, (*Recorder).Close)
	return r, nil
}

// Close frees the recorder; what it summed up and was not read is gone (see [Recorder.Finish]). Closing
// again does nothing.
func (r *Recorder) Close() error {
	handle := r.handle.Swap(0)
	if handle == 0 {
		return nil
	}
	runtime.SetFinalizer(r, nil)
	return check("Close", Status(C.bridge_recorder_free(C.uintptr_t(handle))))
}

// Read reads what happened, records what is due, and hands over all records, each a JSON object whose
// fields docs/flow-records.md explains, and how many events and records there was no room for since the
// start. Call it some times a second.
func (r *Recorder) Read() (records []json.RawMessage, lost uint64, err error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.buffer == nil {
		r.buffer = make([]byte, 64<<10)
	}
	for {
		var written C.size_t
		var l C.uint64_t
		err := r.call("Read", func(handle C.uintptr_t) C.int32_t {
			return C.bridge_recorder_read(handle, (*C.char)(unsafe.Pointer(&r.buffer[0])),
				C.size_t(len(r.buffer)), &written, &l)
		})
		if failed, is := err.(*Error); is && failed.Status == tooSmall {
			r.buffer = make([]byte, 2*len(r.buffer))
			continue
		}
		if err != nil || written == 0 {
			return records, uint64(l), err
		}
		text := append([]byte(nil), r.buffer[:written]...)
		for _, line := range bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n")) {
			records = append(records, json.RawMessage(line))
		}
	}
}

// Recorded is what a recorder did since the start. All counts are exact: of each class of things that
// happened, those read and those Lost are how many there were; of those read some are SampledOut or LeftOut,
// and of the others there are records.
type Recorded struct {
	Started       uint64 // connections whose start was read
	Ended         uint64 // connections whose end was read
	DeniedPackets uint64 // packets of which it was read that they were denied
	Others        uint64 // connections that changed, packets that stand alone
	// Lost before they could be read: starts, denied packets, ends, changes, packets alone.
	Lost [5]uint64
	// SampledOut and LeftOut are things (denials: packets) that are of no record because only a sample is
	// recorded, or because Keep leaves them out.
	SampledOut, LeftOut uint64
	Records             uint64 // of starts, ends, changes and packets that stand alone: one each
	Updates             uint64 // records of connections that last
	DeniedRecords       uint64 // records of denials, each of which sums up some
	DeniedRecorded      uint64 // denied packets in those
	DeniedWaiting       uint64 // denied packets that wait to be recorded
	RecordsLost         uint64 // records that there was no room for
}

// Recorded is what was done so far.
func (r *Recorder) Recorded() (Recorded, error) {
	c := C.portcullis_recorded{struct_size: C.sizeof_portcullis_recorded}
	err := r.call("Recorded", func(handle C.uintptr_t) C.int32_t {
		return C.bridge_recorder_recorded(handle, &c)
	})
	recorded := Recorded{
		Started: uint64(c.started), Ended: uint64(c.ended), DeniedPackets: uint64(c.denied_packets),
		Others: uint64(c.others), SampledOut: uint64(c.sampled_out), LeftOut: uint64(c.left_out),
		Records: uint64(c.records), Updates: uint64(c.updates), DeniedRecords: uint64(c.denied_records),
		DeniedRecorded: uint64(c.denied_recorded), DeniedWaiting: uint64(c.denied_waiting),
		RecordsLost: uint64(c.records_lost),
	}
	for n := range recorded.Lost {
		recorded.Lost[n] = uint64(c.lost[n])
	}
	return recorded, err
}

// Finish records everything that is there, due or not, such as denials that are still summed up: at the
// end, before the last [Recorder.Read].
func (r *Recorder) Finish() error {
	return r.call("Finish", func(handle C.uintptr_t) C.int32_t { return C.bridge_recorder_finish(handle) })
}

func (r *Recorder) call(op string, run func(C.uintptr_t) C.int32_t) error {
	handle := r.handle.Load()
	if handle == 0 {
		return ErrClosed
	}
	status := Status(run(C.uintptr_t(handle)))
	runtime.KeepAlive(r)
	return check(op, status)
}
