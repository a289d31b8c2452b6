package portcullis_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"portcullis"
)

const feed = `
{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {name: feed, labels: {kind: threat}}, spec: {nets: [192.0.2.0/24]}}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: drop-threats}
spec: {selector: all(), types: [Ingress], ingress: [
  {action: Deny, source: {selector: "kind == 'threat'"}}, {action: Allow}]}
`

func TestSetsKeepTheirContentUntilForgotten(t *testing.T) {
	e := engine(t)
	j := judge(t, e)
	apply := func() {
		t.Helper()
		if _, err := e.Apply(documents("c", cluster), documents("p", feed)); err != nil {
			t.Fatal(err)
		}
	}
	apply()
	sets, err := e.Sets()
	if err != nil || len(sets) != 1 || sets[0] != (portcullis.Set{Name: "GlobalNetworkSet//feed", Prefixes: 1}) {
		t.Fatal(sets, err)
	}
	if forgotten, err := e.ForgetSet("GlobalNetworkSet//feed"); err != nil || forgotten {
		t.Error(forgotten, err)
	}
	if err := e.ReplaceSet("GlobalNetworkSet//feed", []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}); err != nil {
		t.Fatal(err)
	}
	apply()
	if verdict(t, j, "198.51.100.1", "10.0.0.2", 80) != portcullis.Deny {
		t.Error("the content is gone")
	}
	if forgotten, err := e.ForgetSet("GlobalNetworkSet//feed"); err != nil || !forgotten {
		t.Error(forgotten, err)
	}
	apply()
	if verdict(t, j, "198.51.100.1", "10.0.0.2", 80) != portcullis.Allow ||
		verdict(t, j, "192.0.2.1", "10.0.0.2", 80) != portcullis.Deny {
		t.Error("the documents do not count again")
	}
}

func TestClusterAloneAndProof(t *testing.T) {
	e := engine(t)
	j := judge(t, e)
	moved := strings.ReplaceAll(cluster, "10.0.0.1}", "10.0.0.7}")
	applied, err := e.SetCluster(documents("moved.yaml", moved))
	if err != nil || applied.Generation != 2 || applied.Policies != 1 {
		t.Fatal(applied, err)
	}
	if now, err := e.Applied(); err != nil || now != applied {
		t.Error(now, err)
	}
	if verdict(t, j, "10.0.0.1", "10.0.0.2", 5432) != portcullis.Deny ||
		verdict(t, j, "10.0.0.7", "10.0.0.2", 5432) != portcullis.Allow {
		t.Error("the cluster was not replaced")
	}
	if _, err := e.SetCluster(documents("broken.yaml", "kind: [")); !errors.Is(err, portcullis.Refused) {
		t.Error(err)
	}
	if regions, err := e.Prove(); err != nil || regions == 0 {
		t.Error(regions, err)
	}
}

func TestNumbersByRuleAndConnection(t *testing.T) {
	e := engine(t)
	j := judge(t, e)
	out := make([]portcullis.Judgement, 2)
	packets := [][]byte{tcp(1, 40000, 2, 5432, syn, 1, 0), tcp(1, 40000, 2, 22, syn, 1, 0)}
	if err := j.Packets(packets, out); err != nil {
		t.Fatal(err)
	}
	rules, err := e.RuleTotals()
	if err != nil {
		t.Fatal(err)
	}
	found := map[uint32]portcullis.RuleTotals{}
	for _, rule := range rules {
		found[rule.Rule] = rule
	}
	if r := found[out[0].Rule]; r.Passed != 1 || r.PassedBytes != 54 || r.Refused != 0 {
		t.Errorf("%+v", rules)
	}
	if r := found[out[1].Rule]; r.Refused != 1 || r.RefusedBytes != 54 {
		t.Errorf("%+v", rules)
	}
	open, err := e.Connections()
	if err != nil || len(open) != 1 || open[0].Source != netip.MustParseAddrPort("10.0.0.1:40000") ||
		open[0].Destination.Port() != 5432 || open[0].Packets != [2]uint64{1, 0} || open[0].Rule != out[0].Rule {
		t.Errorf("%+v, %v", open, err)
	}
	totals, err := e.Totals()
	if err != nil || totals.HalfOpen != 1 || totals.Capacity == 0 || totals.Evicted != 0 {
		t.Errorf("%+v, %v", totals, err)
	}
	rounds, err := e.Rounds()
	if err != nil || len(rounds.Bounds) != len(rounds.Counts) || len(rounds.Bounds) < 3 || rounds.Sum != 0 ||
		rounds.Bounds[0] != time.Microsecond {
		t.Errorf("%+v, %v", rounds, err)
	}
	if owner, err := e.Owner(netip.MustParseAddr("10.0.0.1")); err != nil || owner != "shop/web-0" {
		t.Error(owner, err)
	}
	if owner, err := e.Owner(netip.MustParseAddr("203.0.113.1")); err != nil || owner != "" {
		t.Error(owner, err)
	}
	if _, err := e.Owner(netip.Addr{}); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
	addresses, err := e.Addresses(portcullis.EndpointName{Namespace: "shop", Name: "db-0"})
	if err != nil || len(addresses) != 1 || addresses[0].String() != "10.0.0.2" {
		t.Error(addresses, err)
	}
	if _, err := e.Addresses(portcullis.EndpointName{Name: "nobody"}); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
}

// More connections than fit into the first room.
func TestListsAreWhole(t *testing.T) {
	e := engine(t)
	j := judge(t, e)
	const count = 1500
	packets := make([][]byte, count)
	for n := range packets {
		packets[n] = tcp(1, 1024+n, 2, 5432, syn, 1, 0)
	}
	if err := j.Packets(packets, make([]portcullis.Judgement, count)); err != nil {
		t.Fatal(err)
	}
	open, err := e.Connections()
	ports := map[uint16]bool{}
	for _, connection := range open {
		ports[connection.Source.Port()] = true
	}
	if err != nil || len(open) != count || len(ports) != count {
		t.Error(len(open), len(ports), err)
	}
}

// The second piece of a packet comes first: it is held, and handed over once the first has come, also
// if that is late in a long batch.
func TestHeldFragmentsAreHandedOver(t *testing.T) {
	e := engine(t)
	if _, err := e.Apply(documents("c", cluster), nil); err != nil {
		t.Fatal(err)
	}
	j := judge(t, e)
	piece := func(id, offset, more int, data int) []byte {
		frame := make([]byte, 34+data)
		frame[12], frame[14], frame[22], frame[23] = 8, 0x45, 64, 17
		binary.BigEndian.PutUint16(frame[16:], uint16(20+data))
		binary.BigEndian.PutUint16(frame[18:], uint16(id))
		binary.BigEndian.PutUint16(frame[20:], uint16(more<<13|offset/8))
		copy(frame[26:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
		if offset == 0 {
			frame[35], frame[37], frame[39] = 99, 53, 24
		}
		return frame
	}
	for name, call := range map[string]func([][]byte, []portcullis.Judgement) error{
		"Packets": j.Packets,
		"Buffer": func(packets [][]byte, out []portcullis.Judgement) error {
			var buffer []byte
			var frames []portcullis.Frame
			for _, packet := range packets {
				frames = append(frames, portcullis.Frame{Offset: uint32(len(buffer)), Length: uint32(len(packet))})
				buffer = append(buffer, packet...)
			}
			return j.Buffer(buffer, frames, out)
		},
	} {
		id := len(name)
		var packets [][]byte
		for n := 0; n < 100; n++ {
			packets = append(packets, tcp(1, 30000+100*id+n, 2, 80, syn, 1, 0))
		}
		second := piece(id, 16, 0, 8)
		packets = append(packets, second, piece(id, 0, 1, 16))
		out := make([]portcullis.Judgement, len(packets))
		if err := call(packets, out); err != nil {
			t.Fatal(err)
		}
		if out[100].Reason.String() != "fragment_held" || out[101].Verdict != portcullis.Allow {
			t.Errorf("%s: %+v %+v", name, out[100], out[101])
		}
		outgoing := j.Outgoing()
		if len(outgoing) != 1 || outgoing[0].Answer || string(outgoing[0].Data) != string(second) {
			t.Errorf("%s: %+v", name, outgoing)
		}
		if again := j.Outgoing(); again != nil {
			t.Errorf("%s: handed over twice: %+v", name, again)
		}
	}
}

func TestStagedPoliciesAndRecords(t *testing.T) {
	e, err := portcullis.New(portcullis.Config{DeniedBurst: 10, Retention: time.Minute, TCPTimeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.Apply(documents("c", cluster), nil); err != nil {
		t.Fatal(err)
	}
	if err := e.Stage(documents("staged.yaml", policies)); err != nil {
		t.Fatal(err)
	}
	if staged, err := e.Staged(); err != nil || staged != 1 {
		t.Error(staged, err)
	}
	j := judge(t, e)
	out := make([]portcullis.Judgement, 1)
	if err := j.Packets([][]byte{tcp(1, 40000, 2, 22, syn, 1, 0)}, out); err != nil || out[0].Verdict != portcullis.Allow {
		t.Fatal(out, err)
	}
	events := make([]portcullis.Event, 4)
	n, err := e.PollEvents(events)
	if err != nil || n != 1 || events[0].Staged != portcullis.StagedDenies || events[0].TCPFlags != syn ||
		!strings.Contains(events[0].StagedPolicy, "web-to-db") || events[0].Packets[0] != 1 || events[0].Bytes[0] != 40 ||
		!strings.HasPrefix(events[0].StagedOrigin, "staged.yaml:") {
		t.Errorf("%d, %v: %+v", n, err, events[0])
	}
	if totals, err := e.Totals(); err != nil || totals.Staged != 1 || totals.StagedDenies != 1 {
		t.Errorf("%+v, %v", totals, err)
	}
	if err := e.Stage(documents("broken", "kind: [")); !errors.Is(err, portcullis.Refused) {
		t.Error(err)
	}
	if err := e.Unstage(); err != nil {
		t.Error(err)
	}

	if _, err := e.NewRecorder(portcullis.RecorderConfig{Keep: "some"}); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
	recorder, err := e.NewRecorder(portcullis.RecorderConfig{Keep: "all", Update: -1, Denied: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Apply(documents("c", cluster), documents("p", policies)); err != nil {
		t.Fatal(err)
	}
	many := make([][]byte, 300)
	for n := range many {
		many[n] = tcp(1, 30000+n, 2, 5432, syn, 1, 0)
	}
	many[299] = tcp(1, 30299, 2, 22, syn, 1, 0)
	if err := j.Packets(many, make([]portcullis.Judgement, len(many))); err != nil {
		t.Fatal(err)
	}
	if err := recorder.Finish(); err != nil {
		t.Error(err)
	}
	records, lost, err := recorder.Read()
	if err != nil || lost != 0 || len(records) < 300 {
		t.Fatal(len(records), lost, err)
	}
	kinds := map[string]int{}
	for _, record := range records {
		var fields struct{ Event string }
		if err := json.Unmarshal(record, &fields); err != nil {
			t.Fatal(err, string(record))
		}
		kinds[fields.Event]++
	}
	if kinds["start"] != 299 || kinds["deny"] != 1 {
		t.Error(kinds)
	}
	if err := recorder.Close(); err != nil || recorder.Close() != nil {
		t.Error(err)
	}
	if _, _, err := recorder.Read(); err != portcullis.ErrClosed {
		t.Error(err)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for _, config := range []portcullis.Config{
		{TCPTimeout: -1}, {UDPTimeout: time.Microsecond}, {Retention: -1}, {TCPTimeout: 1000 * time.Hour * 24},
		{Identity: portcullis.Limits{NewPerSecond: 5_000_000}},
	} {
		if _, err := portcullis.New(config); !errors.Is(err, portcullis.BadValue) {
			t.Errorf("%+v: %v", config, err)
		}
	}
	e, err := portcullis.New(portcullis.Config{Identity: portcullis.Limits{Connections: 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.Apply(documents("c", cluster), documents("p", policies)); err != nil {
		t.Fatal(err)
	}
	j := judge(t, e)
	out := make([]portcullis.Judgement, 2)
	packets := [][]byte{tcp(1, 40000, 2, 5432, syn, 1, 0), tcp(1, 40001, 2, 5432, syn, 1, 0)}
	if err := j.Packets(packets, out); err != nil || out[0].Verdict != portcullis.Allow || out[1].Verdict != portcullis.Deny {
		t.Error(out, err)
	}
}

func TestCapturesAreLimitedAndClosed(t *testing.T) {
	e := engine(t)
	var open []*portcullis.Capture
	for n := 0; n < 8; n++ {
		c, err := e.NewCapture(portcullis.CaptureFilter{})
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	if _, err := e.NewCapture(portcullis.CaptureFilter{}); !errors.Is(err, portcullis.System) {
		t.Error(err)
	}
	if err := open[0].SetFilter(portcullis.CaptureFilter{Reasons: []portcullis.Reason{250}}); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
	if err := open[0].SetFilter(portcullis.CaptureFilter{Verdicts: []portcullis.Verdict{9}}); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
	if err := open[0].Allow(5); err != nil {
		t.Error(err)
	}
	if packets, err := open[0].Packets(); err != nil || packets != nil {
		t.Error(packets, err)
	}
	for _, c := range open {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := open[0].Packets(); err != portcullis.ErrClosed {
		t.Error(err)
	}
}

// A firewall's life: wires come and go, a connection is denied and captured, an interface goes down.
func TestFirewallBetweenNamespaces(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	// The thread is never unlocked: it ends with the goroutine, and its namespace with it.
	runtime.LockOSThread()
	if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
		t.Skip("needs network namespaces: ", err)
	}
	ip := func(arguments ...string) {
		t.Helper()
		if out, err := exec.Command("ip", arguments...).CombinedOutput(); err != nil {
			t.Fatal(arguments, string(out), err)
		}
	}
	for _, pair := range [][2]string{{"pa", "ha"}, {"pb", "hb"}} {
		ip("link", "add", pair[0], "type", "veth", "peer", "name", pair[1])
		for _, name := range pair {
			ip("link", "set", name, "up")
		}
	}
	e := engine(t)
	if _, err := e.Start(portcullis.Wire{CPUs: []int{100000}}); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
	if _, err := e.Start(portcullis.Wire{A: "pa", B: "pb", Tuning: portcullis.Tuning{RXRing: 100}}); !errors.Is(err, portcullis.Interface) {
		t.Error(err)
	}
	f, err := e.Start(portcullis.Wire{EarlyDropCapacity: 1, Tuning: portcullis.Tuning{Tick: 50 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.AddWire(portcullis.Link{A: "nosuch0", B: "pb"}); !errors.Is(err, portcullis.Interface) ||
		!strings.Contains(err.Error(), "nosuch0") {
		t.Error(err)
	}
	if err := f.AddWire(portcullis.Link{A: "pa", B: "pb", Name: "pod", SmallRings: true}); err != nil {
		t.Fatal(err)
	}
	if wires, err := f.Wires(); err != nil || len(wires) != 1 || wires[0] != "pod" {
		t.Error(wires, err)
	}
	if err := f.RemoveWire("other"); !errors.Is(err, portcullis.NoSuchWire) {
		t.Error(err)
	}
	ports, err := f.Ports()
	if err != nil || len(ports) != 2 || ports[0].Name != "pa" || ports[1].Wire != "pod" || ports[0].Memory == 0 {
		t.Errorf("%+v, %v", ports, err)
	}
	if _, err := f.LesserMode(); err != nil {
		t.Error(err)
	}
	if err := f.ReplaceEarlyDrop([]netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}); err != nil {
		t.Error(err)
	}
	if err := f.ReplaceEarlyDrop(make([]netip.Prefix, 1)); err == nil {
		t.Error("a prefix that is none is taken")
	}

	capture, err := e.NewCapture(portcullis.CaptureFilter{
		Verdicts: []portcullis.Verdict{portcullis.Deny}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2")}, Snap: 40,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer capture.Close()
	if err := capture.Allow(1000); err != nil {
		t.Fatal(err)
	}
	send(t, "ha", tcp(1, 40000, 2, 22, syn, 1, 0))
	var packets []portcullis.Captured
	for n := 0; len(packets) == 0 && n < 100; n++ {
		time.Sleep(20 * time.Millisecond)
		if packets, err = capture.Packets(); err != nil {
			t.Fatal(err)
		}
	}
	if len(packets) != 1 || packets[0].Interface != "pa" || len(packets[0].Data) != 40 || packets[0].Wire < 54 ||
		packets[0].Judgement.Verdict != portcullis.Deny {
		t.Errorf("%+v", packets)
	}
	if lost, over, err := capture.Lost(); err != nil || lost != 0 || over != 0 {
		t.Error(lost, over, err)
	}
	sockets, err := f.Sockets()
	if err != nil || len(sockets) < 2 || sockets[0].Port != 0 || sockets[0].RXInvalidDescriptors != 0 {
		t.Errorf("%+v, %v", sockets, err)
	}
	programs, err := f.Programs()
	if err != nil || len(programs) != 2 || programs[0].ToSocket == 0 {
		t.Errorf("%+v, %v", programs, err)
	}
	if rounds, err := e.Rounds(); err != nil || rounds.Sum == 0 {
		t.Errorf("%+v, %v", rounds, err)
	}
	if changes, err := f.PortChanges(); err != nil || changes != nil {
		t.Error(changes, err)
	}
	for _, pair := range [][2]string{{"pc", "hc"}, {"pd", "hd"}, {"pe", "he"}} {
		ip("link", "add", pair[0], "type", "veth", "peer", "name", pair[1])
	}
	lan := portcullis.Link{A: "pc", B: "pd", Others: []string{"pe"}}
	if err := f.AddWire(lan); !errors.Is(err, portcullis.BadValue) {
		t.Error("a switch without a name: ", err)
	}
	lan.Name = "lan"
	if err := f.AddWire(lan); err != nil {
		t.Error(err)
	}
	if ports, err := f.Ports(); err != nil || len(ports) != 5 || ports[4].Name != "pe" || ports[4].Wire != "lan" {
		t.Errorf("%+v, %v", ports, err)
	}
	if err := f.RemoveWire("lan"); err != nil {
		t.Error(err)
	}
	if changes, err := f.PortChanges(); err != nil || changes != nil {
		t.Error(changes, err)
	}
	ip("link", "set", "pb", "down")
	changes, err := f.PortChanges()
	if err != nil || len(changes) != 1 || changes[0].Name != "pb" || changes[0].State != portcullis.PortDown ||
		changes[0].State.String() != "down" || changes[0].Wire != "pod" {
		t.Errorf("%+v, %v", changes, err)
	}
	ip("link", "del", "pb")
	changes, err = f.PortChanges()
	if err != nil || len(changes) == 0 || changes[len(changes)-1].State != portcullis.PortGone {
		t.Errorf("%+v, %v", changes, err)
	}
	if wires, err := f.Wires(); err != nil || wires != nil {
		t.Error("a wire without an interface stays: ", wires, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := f.Ports(); err != portcullis.ErrClosed {
		t.Error(err)
	}
	if err := f.AddWire(portcullis.Link{A: "pa"}); err != portcullis.ErrClosed {
		t.Error(err)
	}
}

// send puts a frame onto an interface.
func send(t *testing.T, name string, frame []byte) {
	t.Helper()
	const all = 3 << 8 // ETH_P_ALL in network byte order
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, all)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Sendto(fd, frame, 0, &syscall.SockaddrLinklayer{Ifindex: index(t, name), Protocol: 8}); err != nil {
		t.Fatal(err)
	}
}

// index is the number of an interface.
func index(t *testing.T, name string) (index int) {
	t.Helper()
	links, err := exec.Command("ip", "-o", "link", "show", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, digit := range string(links) {
		if digit < '0' || digit > '9' {
			break
		}
		index = 10*index + int(digit-'0')
	}
	return index
}
