package portcullis_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"portcullis"
)

const cluster = `
{apiVersion: v1, kind: Pod, metadata: {name: web-0, namespace: shop, labels: {app: web}}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db-0, namespace: shop, labels: {app: db}}, status: {podIP: 10.0.0.2}}
`

const policies = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-to-db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]
`

func documents(name, text string) []portcullis.Document {
	return []portcullis.Document{{Name: name, Data: []byte(text)}}
}

// engine has cluster and policies in force.
func engine(t testing.TB) *portcullis.Engine {
	t.Helper()
	e, err := portcullis.New(portcullis.Config{Prove: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	applied, err := e.Apply(documents("cluster.yaml", cluster), documents("policies.yaml", policies))
	if err != nil {
		t.Fatal(err)
	}
	if applied.Policies != 1 || applied.Endpoints != 2 || applied.Generation != 1 {
		t.Fatalf("applied: %+v", applied)
	}
	return e
}

func judge(t testing.TB, e *portcullis.Engine) *portcullis.Judge {
	t.Helper()
	j, err := e.NewJudge()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

// tcp is a segment without data from 10.0.0.from to 10.0.0.to.
func tcp(from, fromPort, to, toPort int, flags byte, seq, ack uint32) []byte {
	frame := make([]byte, 54)
	frame[12] = 8
	ip, segment := frame[14:], frame[34:]
	ip[0], ip[3], ip[8], ip[9] = 0x45, 40, 64, 6
	copy(ip[12:], []byte{10, 0, 0, byte(from), 10, 0, 0, byte(to)})
	binary.BigEndian.PutUint16(segment, uint16(fromPort))
	binary.BigEndian.PutUint16(segment[2:], uint16(toPort))
	binary.BigEndian.PutUint32(segment[4:], seq)
	binary.BigEndian.PutUint32(segment[8:], ack)
	segment[12], segment[13], segment[14] = 0x50, flags, 0xff
	return frame
}

const syn, synAck = 2, 0x12

func flow(from, to string, port uint16) portcullis.Flow {
	return portcullis.Flow{
		Source: netip.MustParseAddr(from), Destination: netip.MustParseAddr(to),
		Protocol: 6, SourcePort: 40000, DestinationPort: port,
	}
}

func verdict(t *testing.T, j *portcullis.Judge, from, to string, port uint16) portcullis.Verdict {
	t.Helper()
	out := make([]portcullis.Judgement, 1)
	if err := j.Flows([]portcullis.Flow{flow(from, to, port)}, out); err != nil {
		t.Fatal(err)
	}
	return out[0].Verdict
}

func TestPacketsFollowTheirConnection(t *testing.T) {
	e := engine(t)
	j := judge(t, e)
	frames := [][]byte{
		tcp(1, 40000, 2, 5432, syn, 100, 0),
		tcp(2, 5432, 1, 40000, synAck, 500, 101),
		tcp(1, 40001, 2, 22, syn, 7, 0),
		nil,
	}
	out := make([]portcullis.Judgement, len(frames))
	if err := j.Packets(frames, out); err != nil {
		t.Fatal(err)
	}
	if out[0].Verdict != portcullis.Allow || out[0].State != portcullis.Opens || out[0].Reason != portcullis.NoReason {
		t.Errorf("SYN: %+v", out[0])
	}
	if out[1].Verdict != portcullis.Allow || out[1].State != portcullis.Established {
		t.Errorf("SYN-ACK: %+v", out[1])
	}
	if out[2].Verdict != portcullis.Deny || out[2].Reason.String() != "policy_denied" {
		t.Errorf("denied SYN: %+v", out[2])
	}
	if out[3].Verdict != portcullis.Deny {
		t.Errorf("empty frame: %+v", out[3])
	}
	rule, err := e.Rule(out[0].Rule)
	if err != nil || rule != "NetworkPolicy/shop/web-to-db ingress policies.yaml:7:13" {
		t.Errorf("rule: %q, %v", rule, err)
	}
	totals, err := e.Totals()
	if err != nil || totals.Received != 4 || totals.Forwarded != 2 || totals.Dropped != 2 ||
		totals.Connections != 1 || totals.Drops[out[2].Reason] != 1 {
		t.Errorf("totals: %+v, %v", totals, err)
	}
}

// The two ways to hand packets over answer alike, and growing batches reuse what the judge holds.
func TestBuffersAreJudgedLikePackets(t *testing.T) {
	e := engine(t)
	one, two := judge(t, e), judge(t, e)
	for size := 1; size <= 1000; size += 37 {
		var packets [][]byte
		var buffer bytes.Buffer
		var frames []portcullis.Frame
		for n := 0; n < size; n++ {
			port := 5432
			if n%3 == 0 {
				port = 80
			}
			packet := tcp(1, 1024+n, 2, port, syn, 1, 0)
			packets = append(packets, packet)
			frames = append(frames, portcullis.Frame{Offset: uint32(buffer.Len()), Length: uint32(len(packet))})
			buffer.Write(packet)
			buffer.WriteString("between")
		}
		out1, out2 := make([]portcullis.Judgement, size), make([]portcullis.Judgement, size)
		if err := one.Packets(packets, out1); err != nil {
			t.Fatal(err)
		}
		if err := two.Buffer(buffer.Bytes(), frames, out2); err != nil {
			t.Fatal(err)
		}
		for n := range out1 {
			if out1[n].Verdict != out2[n].Verdict || out1[n].Rule != out2[n].Rule ||
				(out1[n].Verdict == portcullis.Allow) != (n%3 != 0) {
				t.Fatalf("packet %d of %d: %+v and %+v", n, size, out1[n], out2[n])
			}
		}
	}
	out := make([]portcullis.Judgement, 1)
	for _, frame := range []portcullis.Frame{{Offset: 60, Length: 5}, {Offset: 65}, {Length: 65}, {Offset: 1<<32 - 1, Length: 1<<32 - 1}} {
		err := one.Buffer(make([]byte, 64), []portcullis.Frame{frame}, out)
		if !errors.Is(err, portcullis.BadValue) {
			t.Errorf("%+v beyond the buffer: %v", frame, err)
		}
	}
}

func TestEndpointsComeAndGo(t *testing.T) {
	e := engine(t)
	j := judge(t, e)
	if verdict(t, j, "10.0.0.3", "10.0.0.2", 5432) != portcullis.Deny {
		t.Error("a stranger passes")
	}
	web := portcullis.Endpoint{
		Namespace: "shop", Name: "web-1", Labels: map[string]string{"app": "web", "zone": "a"},
		Ports:     []portcullis.NamedPort{{Name: "http", Protocol: 6, Port: 80}},
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("fd00::3")},
	}
	if done, err := e.Upsert(web); err != nil || done != 1 {
		t.Fatal(done, err)
	}
	if verdict(t, j, "10.0.0.3", "10.0.0.2", 5432) != portcullis.Allow {
		t.Error("the new endpoint does not pass")
	}
	web.Name, web.Addresses = "web-2", web.Addresses[:1]
	done, err := e.Upsert(web)
	if !errors.Is(err, portcullis.BadPolicy) || !strings.Contains(err.Error(), "10.0.0.3") || done != 0 {
		t.Errorf("an address twice: %d, %v", done, err)
	}
	removed, err := e.Remove(portcullis.EndpointName{Namespace: "shop", Name: "web-1"},
		portcullis.EndpointName{Namespace: "shop", Name: "nobody"})
	if err != nil || removed != 1 {
		t.Error(removed, err)
	}
	if verdict(t, j, "10.0.0.3", "10.0.0.2", 5432) != portcullis.Deny {
		t.Error("a removed endpoint passes")
	}
	if err := e.ReplaceEndpoints(nil); err != nil {
		t.Error(err)
	}
	if err := e.ReplaceEndpoints([]portcullis.Endpoint{{}}); err == nil {
		t.Log("an endpoint without a name is taken")
	}
}

func TestSetsAndExplanations(t *testing.T) {
	e := engine(t)
	j := judge(t, e)
	_, err := e.Apply(documents("cluster.yaml", cluster), documents("feed.yaml", `
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {name: feed, labels: {kind: threat}}, spec: {nets: []}}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: drop-threats}
spec: {selector: all(), types: [Ingress], ingress: [
  {action: Deny, source: {selector: "kind == 'threat'"}}, {action: Allow}]}
`))
	if err != nil {
		t.Fatal(err)
	}
	if verdict(t, j, "10.9.0.77", "10.0.0.2", 80) != portcullis.Allow {
		t.Error("denied too early")
	}
	set := []netip.Prefix{netip.MustParsePrefix("10.9.0.64/26"), netip.MustParsePrefix("2001:db8::/32")}
	if err := e.ReplaceSet("GlobalNetworkSet//feed", set); err != nil {
		t.Fatal(err)
	}
	if verdict(t, j, "10.9.0.77", "10.0.0.2", 80) != portcullis.Deny {
		t.Error("the feed does not count")
	}
	if err := e.ReplaceSet("GlobalNetworkSet//feed", nil); err != nil {
		t.Fatal(err)
	}
	if err := e.ReplaceSet("feed", set); !errors.Is(err, portcullis.NoSuchSet) {
		t.Error(err)
	}
	if err := e.ReplaceSet("GlobalNetworkSet//feed", []netip.Prefix{{}}); err == nil {
		t.Error("a prefix that is none is taken")
	}
	text, err := e.Explain(flow("10.9.0.77", "10.0.0.2", 80))
	if err != nil || !strings.Contains(text, "drop-threats") {
		t.Error(text, err)
	}
}

func TestDiffSaysWhatWouldChange(t *testing.T) {
	e := engine(t)
	text, changes, err := e.Diff(nil, documents("policies.yaml", policies))
	if err != nil || changes != 0 {
		t.Errorf("the same policies: %d, %v, %s", changes, err, text)
	}
	text, changes, err = e.Diff(nil, nil)
	if err != nil || changes == 0 || !strings.Contains(text, "10.0.0.2") && !strings.Contains(text, "db") {
		t.Errorf("no policies: %d, %v, %s", changes, err, text)
	}
	if _, _, err = e.Diff(nil, documents("broken.yaml", "kind: [")); !errors.Is(err, portcullis.Refused) {
		t.Error(err)
	}
	if warnings, err := e.Warnings(); err != nil || warnings != "" {
		t.Error(warnings, err)
	}
}

func TestErrorsWrapTheirStatus(t *testing.T) {
	e := engine(t)
	j := judge(t, e)
	_, err := e.Apply(documents("cluster.yaml", cluster), documents("broken.yaml", "kind: ["))
	var failed *portcullis.Error
	if !errors.Is(err, portcullis.Refused) || !errors.As(err, &failed) || failed.Op != "Apply" ||
		!strings.Contains(failed.Text, "broken.yaml:") {
		t.Errorf("%#v", err)
	}
	if verdict(t, j, "10.0.0.1", "10.0.0.2", 5432) != portcullis.Allow {
		t.Error("a refused set changed something")
	}
	if _, err := e.ApplyFiles("/nonexistent"); !errors.Is(err, portcullis.Refused) {
		t.Error(err)
	}
	_, err = e.Apply(documents("a\x00b", ""), nil)
	if !errors.Is(err, portcullis.BadValue) {
		t.Errorf("a NUL inside: %v", err)
	}
	if _, err = e.Apply(documents("\xff", ""), nil); !errors.Is(err, portcullis.BadUTF8) {
		t.Errorf("not UTF-8: %v", err)
	}
	if _, err := portcullis.New(portcullis.Config{Connections: -1}); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
	if _, err := portcullis.New(portcullis.Config{OnPolicyChange: 77}); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
	if _, err := e.Start(portcullis.Wire{A: "nosuch0", B: "nosuch1"}); err == nil {
		t.Error("started between interfaces that are not there")
	}
	if _, err := e.Rule(12345); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
	out := make([]portcullis.Judgement, 1)
	if err := j.Packets(make([][]byte, 2), out); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
	if err := j.Flows(make([]portcullis.Flow, 2), out); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
	if err := j.Flows(make([]portcullis.Flow, 1), out); !errors.Is(err, portcullis.BadValue) {
		t.Error("a flow without addresses:", err)
	}
	if err := j.PacketsAt(-1, make([][]byte, 1), out); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
}

func TestClosedHandlesSaySo(t *testing.T) {
	e := engine(t)
	j := judge(t, e)
	out := make([]portcullis.Judgement, 1)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Error("closing twice:", err)
	}
	if _, err := e.Totals(); err != portcullis.ErrClosed {
		t.Error(err)
	}
	if _, err := e.NewJudge(); err != portcullis.ErrClosed {
		t.Error(err)
	}
	if _, err := e.Apply(nil, nil); err != portcullis.ErrClosed {
		t.Error(err)
	}
	if _, err := e.Events(context.Background(), make([]portcullis.Event, 1)); err != portcullis.ErrClosed {
		t.Error(err)
	}
	// The judge outlives its engine.
	if verdict(t, j, "10.0.0.1", "10.0.0.2", 5432) != portcullis.Allow {
		t.Error("the judge forgot")
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	if err := j.Packets(make([][]byte, 1), out); err != portcullis.ErrClosed {
		t.Error(err)
	}
}

func TestEventsAreWaitedFor(t *testing.T) {
	e := engine(t)
	j := judge(t, e)
	events := make([]portcullis.Event, 16)
	if n, err := e.PollEvents(events); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if n, err := e.Events(ctx, events); n != 0 || err != context.DeadlineExceeded {
		t.Fatal(n, err)
	}
	go func() {
		time.Sleep(20 * time.Millisecond)
		out := make([]portcullis.Judgement, 2)
		j.Packets([][]byte{tcp(1, 40000, 2, 5432, syn, 1, 0), tcp(9, 40000, 2, 5432, syn, 1, 0)}, out)
	}()
	ctx, cancel = context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var got []portcullis.Event
	for len(got) < 2 {
		n, err := e.Events(ctx, events)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, events[:n]...)
	}
	opened, dropped := got[0], got[1]
	if opened.Kind != portcullis.Opened || opened.From.Name != "shop/web-0" || opened.From.Labels != "app=web" ||
		opened.Policy != "NetworkPolicy/shop/web-to-db" || opened.Origin != "policies.yaml:7:13" ||
		opened.Source != netip.MustParseAddrPort("10.0.0.1:40000") || time.Since(opened.Time) > time.Hour {
		t.Errorf("%+v", opened)
	}
	if dropped.Kind != portcullis.Dropped || dropped.Verdict != portcullis.Deny || dropped.From.Name != "" ||
		dropped.Reason.String() != "policy_denied" || dropped.Destination.Port() != 5432 {
		t.Errorf("%+v", dropped)
	}
	// Nobody who waits is left behind.
	failed := make(chan error, 2)
	for i := 0; i < 2; i++ {
		go func() {
			_, err := e.Events(context.Background(), make([]portcullis.Event, 1))
			failed <- err
		}()
	}
	time.Sleep(20 * time.Millisecond)
	e.Close()
	for i := 0; i < 2; i++ {
		if err := <-failed; err != portcullis.ErrClosed {
			t.Error(err)
		}
	}
}

// Everything at once, for the race detector: judges, changes, readers, and an end in the middle of it.
func TestManyGoroutines(t *testing.T) {
	e := engine(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var group sync.WaitGroup
	shared := judge(t, e)
	spin := func(f func(n int) error) {
		group.Add(1)
		go func() {
			defer group.Done()
			for n := 0; ctx.Err() == nil; n++ {
				err := f(n)
				if err != nil && err != portcullis.ErrClosed && ctx.Err() == nil &&
					!errors.Is(err, portcullis.Busy) && !errors.Is(err, portcullis.Refused) {
					t.Error(err)
					return
				}
			}
		}()
	}
	packets := make([][]byte, 64)
	for n := range packets {
		packets[n] = tcp(1, 1024+n, 2, 5432, syn, 1, 0)
	}
	for i := 0; i < 2; i++ {
		own, out := judge(t, e), make([]portcullis.Judgement, len(packets))
		spin(func(int) error {
			for n := range out {
				out[n] = portcullis.Judgement{Verdict: portcullis.Deny}
			}
			if err := own.Packets(packets, out); err != nil {
				return err
			}
			for _, judgement := range out {
				if judgement.Verdict != portcullis.Allow {
					return errors.New("a packet was judged by half a change")
				}
			}
			return nil
		})
		out2 := make([]portcullis.Judgement, len(packets))
		spin(func(int) error { return shared.Packets(packets, out2) })
		spin(func(int) error {
			_, err := e.Events(ctx, make([]portcullis.Event, 8))
			return err
		})
	}
	spin(func(n int) error {
		_, err := e.Upsert(portcullis.Endpoint{Namespace: "shop", Name: "x", Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 0, byte(n)})}})
		return err
	})
	spin(func(int) error { _, err := e.Apply(documents("c", cluster), documents("p", policies)); return err })
	spin(func(int) error { _, err := e.Apply(documents("c", cluster), documents("p", "kind: x")); return err })
	spin(func(int) error { _, err := e.Totals(); return err })
	spin(func(int) error { _, err := e.Explain(flow("10.0.0.1", "10.0.0.2", 80)); return err })
	time.Sleep(300 * time.Millisecond)
	e.Close()
	time.Sleep(50 * time.Millisecond)
	cancel()
	group.Wait()
}

// What is forgotten is freed by the collector, while calls on it are under way too.
func TestForgottenHandlesAreFreed(t *testing.T) {
	for n := 0; n < 300; n++ {
		e, err := portcullis.New(portcullis.Config{Connections: 1024, EventCapacity: 64})
		if err != nil {
			t.Fatal(err)
		}
		j, err := e.NewJudge()
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Packets([][]byte{tcp(1, 1, 2, 2, syn, 0, 0)}, make([]portcullis.Judgement, 1)); err != nil {
			t.Fatal(err)
		}
		if n%20 == 0 {
			runtime.GC()
		}
	}
}

func BenchmarkPackets(b *testing.B) {
	e := engine(b)
	for _, size := range []int{1, 32, 256} {
		packets, out := make([][]byte, size), make([]portcullis.Judgement, size)
		var buffer []byte
		frames := make([]portcullis.Frame, size)
		for n := range packets {
			packets[n] = tcp(1, 1024+n, 2, 5432, syn, 1, 0)
			frames[n] = portcullis.Frame{Offset: uint32(len(buffer)), Length: uint32(len(packets[n]))}
			buffer = append(buffer, packets[n]...)
		}
		run := func(name string, call func(*portcullis.Judge) error) {
			b.Run(name, func(b *testing.B) {
				j := judge(b, e)
				b.ReportAllocs()
				b.ResetTimer()
				for n := 0; n < b.N; n += size {
					if err := call(j); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		suffix := map[int]string{1: "1", 32: "32", 256: "256"}[size]
		run("copied/"+suffix, func(j *portcullis.Judge) error { return j.Packets(packets, out) })
		run("buffer/"+suffix, func(j *portcullis.Judge) error { return j.Buffer(buffer, frames, out) })
	}
}
