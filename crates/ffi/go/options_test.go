package portcullis_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"portcullis"
)

// vxlan wraps a frame.
func vxlan(vni uint32, inner []byte) []byte {
	frame := make([]byte, 50, 50+len(inner))
	frame[12], frame[14], frame[22], frame[23] = 8, 0x45, 64, 17
	binary.BigEndian.PutUint16(frame[16:], uint16(36+len(inner)))
	copy(frame[26:], []byte{192, 0, 2, 1, 192, 0, 2, 2})
	binary.BigEndian.PutUint16(frame[34:], 50000)
	binary.BigEndian.PutUint16(frame[36:], 4789)
	binary.BigEndian.PutUint16(frame[38:], uint16(16+len(inner)))
	frame[42] = 8
	binary.BigEndian.PutUint32(frame[46:], vni<<8)
	return append(frame, inner...)
}

func TestZonesBehindTunnels(t *testing.T) {
	for _, tunnels := range [][]portcullis.Tunnel{
		{{Kind: portcullis.VXLAN, VNI: 1 << 24}},
		{{Kind: portcullis.IPInIP, Port: 1}},
		{{Kind: portcullis.Geneve, AllNetworks: true}, {Kind: portcullis.Geneve, AllNetworks: true}},
		{{}},
	} {
		if _, err := portcullis.New(portcullis.Config{Tunnels: tunnels}); !errors.Is(err, portcullis.BadValue) {
			t.Error(tunnels, err)
		}
	}
	e, err := portcullis.New(portcullis.Config{Tunnels: []portcullis.Tunnel{
		{Kind: portcullis.VXLAN, VNI: 42, Zone: 1}, {Kind: portcullis.VXLAN, AllNetworks: true, Zone: 2},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.Apply(nil, nil); err != nil {
		t.Fatal(err)
	}
	one, two := e.Zone(1), e.Zone(2)
	if _, err := one.Applied(); !errors.Is(err, portcullis.NoSuchZone) {
		t.Error(err)
	}
	if _, err := one.Upsert(shop().Endpoints...); !errors.Is(err, portcullis.NoSuchZone) {
		t.Error(err)
	}
	if _, err := e.Zone(0).Apply(nil, nil); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
	if _, err := e.Zone(0).ApplyPolicies(*shop(), portcullis.PolicySet{}); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
	if applied, err := one.Apply(documents("cluster.yaml", cluster), documents("policies.yaml", policies)); err != nil || applied.Policies != 1 {
		t.Fatal(applied, err)
	}
	if applied, err := two.ApplyPolicies(*shop(), portcullis.PolicySet{}); err != nil || applied.Endpoints != 2 {
		t.Fatal(applied, err)
	}
	if zones, err := e.Zones(); err != nil || len(zones) != 2 || zones[0] != 1 || zones[1] != 2 {
		t.Error(zones, err)
	}
	j := judge(t, e)
	inner := tcp(1, 40000, 2, 22, syn, 1, 0)
	packets := [][]byte{vxlan(42, tcp(1, 40000, 2, 5432, syn, 1, 0)), vxlan(42, inner), vxlan(43, inner)}
	out := make([]portcullis.Judgement, 3)
	if err := j.Packets(packets, out); err != nil {
		t.Fatal(err)
	}
	if out[0].Verdict != portcullis.Allow || out[1].Verdict != portcullis.Deny || out[2].Verdict != portcullis.Allow {
		t.Errorf("%+v", out)
	}
	if verdict, rule, err := one.Evaluate(flow("10.0.0.1", "10.0.0.2", 5432)); err != nil || verdict != portcullis.Allow ||
		!strings.HasPrefix(rule, "NetworkPolicy/shop/web-to-db ingress policies.yaml:") {
		t.Error(verdict, rule, err)
	}
	if removed, err := one.Remove(portcullis.EndpointName{Namespace: "shop", Name: "web-0"}); err != nil || removed != 1 {
		t.Error(removed, err)
	}
	if verdict, _, err := one.Evaluate(flow("10.0.0.1", "10.0.0.2", 5432)); err != nil || verdict != portcullis.Deny {
		t.Error(verdict, err)
	}
	if done, err := one.Upsert(shop().Endpoints[0]); err != nil || done != 1 {
		t.Error(done, err)
	}
	if was, err := two.Clear(); err != nil || !was {
		t.Error(was, err)
	}
	if was, err := two.Clear(); err != nil || was {
		t.Error(was, err)
	}
	if err := j.Packets(packets, out); err != nil || out[2].Verdict != portcullis.Deny {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestRatesFollowAClockOfOnesOwn(t *testing.T) {
	e, err := portcullis.New(portcullis.Config{VirtualClock: true, HalfOpenInAll: 100,
		Timeouts: portcullis.Timeouts{TCPSYNSent: time.Second}, Fragments: portcullis.Fragments{Packets: 16}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if err := e.SetTime(time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Apply(documents("c", cluster), documents("p", policies)); err != nil {
		t.Fatal(err)
	}
	j := judge(t, e)
	var packets [][]byte
	for port := 40000; port < 40008; port++ {
		packets = append(packets, tcp(1, port, 2, 5432, syn, 1, 0))
	}
	passed := func() (count int) {
		out := make([]portcullis.Judgement, len(packets))
		if err := j.Packets(packets, out); err != nil {
			t.Fatal(err)
		}
		for _, judgement := range out {
			if judgement.Verdict == portcullis.Allow {
				count++
			} else if judgement.Reason.String() != "rate_limit" {
				t.Error(judgement.Reason)
			}
		}
		return count
	}
	index := uint32(0)
	rule := portcullis.RuleName{Policy: "NetworkPolicy/shop/web-to-db", Direction: portcullis.Ingress, Index: &index}
	if err := e.LimitRates(portcullis.Rates{Rules: []portcullis.RuleRate{{Rule: rule, Rate: portcullis.Rate{PerSecond: 3}}}}); err != nil {
		t.Fatal(err)
	}
	if n := passed(); n != 3 {
		t.Error(n, "passed at once")
	}
	if err := e.SetTime(1334 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if n := passed(); n != 1 {
		t.Error(n, "passed after a third of a second")
	}
	rate := portcullis.Rate{Unit: portcullis.Bytes, PerSecond: 1, Burst: 2 * 54}
	if err := e.LimitRates(portcullis.Rates{Identity: &rate}); err != nil {
		t.Fatal(err)
	}
	if n := passed(); n != 2 {
		t.Error(n, "passed for an identity")
	}
	if err := e.LimitRates(portcullis.Rates{}); err != nil || passed() != 8 {
		t.Error("limits stay: ", err)
	}
	rule.Policy = "NetworkPolicy/shop/misspelt"
	if err := e.Mirror(&portcullis.Mirrored{Verdicts: []portcullis.Verdict{portcullis.Deny}, Rules: []portcullis.RuleName{rule}}); err != nil {
		t.Fatal(err)
	}
	if unknown, err := e.UnknownRules(); err != nil || len(unknown) != 1 || unknown[0] != "NetworkPolicy/shop/misspelt ingress rule 0" {
		t.Error(unknown, err)
	}
	if err := e.Mirror(nil); err != nil {
		t.Error(err)
	}
	if unknown, err := e.UnknownRules(); err != nil || unknown != nil {
		t.Error(unknown, err)
	}
	if err := e.Mirror(&portcullis.Mirrored{Verdicts: []portcullis.Verdict{9}}); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
	rule.Direction = 9
	if err := e.LimitRates(portcullis.Rates{Rules: []portcullis.RuleRate{{Rule: rule}}}); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
	// Without packets time passes all the same: connections whose SYN nobody answers are forgotten.
	if err := e.SetTime(time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := j.Packets(nil, nil); err != nil {
		t.Fatal(err)
	}
	if totals, err := e.Totals(); err != nil || totals.Connections != 0 {
		t.Error(totals.Connections, err)
	}
	if err := engine(t).SetTime(1); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
	if err := e.SetTime(-1); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
}

func TestRecordsInTheFormOfHubble(t *testing.T) {
	e := engine(t)
	for _, config := range []portcullis.RecorderConfig{
		{Node: "node-1"}, {Policies: []portcullis.PolicyKeep{{Policies: "a/b", Keep: "all"}}},
		{Policies: []portcullis.PolicyKeep{{Policies: "default", Keep: "some"}}},
	} {
		if _, err := e.NewRecorder(config); !errors.Is(err, portcullis.BadValue) {
			t.Error(config, err)
		}
	}
	r, err := e.NewRecorder(portcullis.RecorderConfig{Hubble: true, Node: "node-1",
		Policies: []portcullis.PolicyKeep{{Policies: "NetworkPolicy/shop/*", Keep: "none"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	packets := [][]byte{tcp(1, 40000, 2, 5432, syn, 1, 0), tcp(2, 40000, 1, 80, syn, 1, 0)}
	if err := judge(t, e).Packets(packets, make([]portcullis.Judgement, 2)); err != nil {
		t.Fatal(err)
	}
	records, _, err := r.Read()
	if err != nil || len(records) != 1 {
		t.Fatal(records, err)
	}
	var response struct {
		NodeName string `json:"node_name"`
		Flow     struct {
			Verdict     string
			Destination struct {
				PodName string `json:"pod_name"`
			}
		}
	}
	if err := json.Unmarshal(records[0], &response); err != nil || response.NodeName != "node-1" ||
		response.Flow.Verdict != "FORWARDED" || response.Flow.Destination.PodName != "web-0" {
		t.Errorf("%s: %+v, %v", records[0], response, err)
	}
}

type broken struct{ after int }

func (b *broken) Write(p []byte) (int, error) {
	if b.after -= len(p); b.after < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

func (b *broken) Read(p []byte) (int, error) { return 0, io.ErrClosedPipe }

func TestConnectionsGoOnInAnotherEngine(t *testing.T) {
	e := engine(t)
	// More than a pipe holds.
	var packets [][]byte
	for port := 1000; port < 3000; port++ {
		packets = append(packets, tcp(1, port, 2, 5432, syn, 100, 0))
	}
	out := make([]portcullis.Judgement, len(packets))
	if err := judge(t, e).Packets(packets, out); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if saved, err := e.SaveConnections(&file); err != nil || saved != 2000 || file.Len() < 2000*96 {
		t.Fatal(saved, file.Len(), err)
	}
	if _, err := e.SaveConnections(&broken{after: 1000}); err != io.ErrShortWrite {
		t.Error(err)
	}
	other := engine(t)
	if _, err := other.RestoreConnections(&broken{}, portcullis.WindowsHold); err != io.ErrClosedPipe {
		t.Error(err)
	}
	damaged := append([]byte(nil), file.Bytes()...)
	damaged[1000] ^= 1
	for _, wrong := range [][]byte{nil, []byte("something else, and long enough"), damaged, damaged[:5000], file.Bytes()[:5000]} {
		if _, err := other.RestoreConnections(bytes.NewReader(wrong), portcullis.WindowsHold); !errors.Is(err, portcullis.BadFile) {
			t.Error(len(wrong), err)
		}
	}
	if _, err := other.RestoreConnections(bytes.NewReader(file.Bytes()), 9); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
	if open, err := other.Connections(); err != nil || len(open) != 0 {
		t.Error(len(open), err)
	}
	restored, err := other.RestoreConnections(&file, portcullis.WindowsHold)
	if err != nil || restored.Restored != 2000 || restored.LeftOut != 0 || restored.Age > time.Hour {
		t.Errorf("%+v, %v", restored, err)
	}
	answer := [][]byte{tcp(2, 5432, 1, 1000, synAck, 500, 101), tcp(2, 5432, 1, 999, synAck, 500, 101)}
	if err := judge(t, other).Packets(answer, out[:2]); err != nil || out[0].Verdict != portcullis.Allow || out[1].Verdict != portcullis.Deny {
		t.Errorf("%+v, %v", out[:2], err)
	}
	other.Close()
	if _, err := other.SaveConnections(io.Discard); err != portcullis.ErrClosed {
		t.Error(err)
	}
	if _, err := other.RestoreConnections(&file, 0); err != portcullis.ErrClosed {
		t.Error(err)
	}
}
