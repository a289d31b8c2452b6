package portcullis_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"portcullis"
)

// checksum is the Internet checksum (RFC 1071) after sum: 0 if the data has a right one in it.
func checksum(data []byte, sum uint32) uint16 {
	for n := 0; n+1 < len(data); n += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[n:]))
	}
	if len(data)%2 == 1 {
		sum += uint32(data[len(data)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

func TestRejectedPacketsAreAnswered(t *testing.T) {
	e, err := portcullis.New(portcullis.Config{RejectDenied: true})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.ApplyPolicies(shop(), everyShapeInCode()); err != nil {
		t.Fatal(err)
	}
	j := judge(t, e)
	answer := func(frame []byte) []byte {
		t.Helper()
		out := make([]portcullis.Judgement, 1)
		if err := j.Packets([][]byte{frame}, out); err != nil {
			t.Fatal(err)
		}
		outgoing := j.Outgoing()
		if out[0].Verdict != portcullis.Reject || out[0].Reason.String() != "policy_rejected" ||
			len(outgoing) != 1 || !outgoing[0].Answer || outgoing[0].Packet != 0 {
			t.Fatalf("%+v, %+v", out, outgoing)
		}
		return outgoing[0].Data
	}
	reset := func(frame []byte, seq, ack uint32, flags byte) {
		t.Helper()
		data := answer(frame)
		segment := data[34:]
		if len(data) != 54 || !bytes.Equal(data[26:34], []byte{10, 0, 0, 2, 10, 0, 0, 1}) || checksum(data[14:34], 0) != 0 ||
			binary.BigEndian.Uint32(segment[4:]) != seq || binary.BigEndian.Uint32(segment[8:]) != ack || segment[13] != flags {
			t.Errorf("% x", data)
		}
		if pseudo := uint32(^checksum(data[26:34], 6+20)); checksum(segment, pseudo) != 0 {
			t.Errorf("checksum: % x", data)
		}
	}
	// A SYN is acknowledged; a reset after it has the number that is waited for.
	reset(tcp(1, 40000, 2, 22, syn, 1000, 0), 0, 1001, 0x14)
	reset(tcp(1, 40000, 2, 22, syn, 0xffffffff, 0), 0, 0, 0x14)
	if err := j.Packets([][]byte{tcp(1, 40000, 2, 5432, syn, 1000, 0)}, make([]portcullis.Judgement, 1)); err != nil || j.Outgoing() != nil {
		t.Fatal(err)
	}
	shut := `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: shut, namespace: shop}, spec: {podSelector: {}}}`
	if _, err := e.SetPolicies(documents("shut.yaml", shut)); err != nil {
		t.Fatal(err)
	}
	reset(tcp(1, 40000, 2, 5432, 0x10, 1001, 7001), 7001, 0, 4)

	// UDP: administratively prohibited, with the packet in it.
	udp := make([]byte, 14+20+8+5)
	udp[12], udp[14], udp[17], udp[22], udp[23] = 8, 0x45, 33, 64, 17
	copy(udp[26:], []byte{10, 0, 0, 1, 10, 0, 0, 2, 0, 99, 0, 53, 0, 13, 0, 0, 'h', 'e', 'l', 'l', 'o'})
	data := answer(udp)
	if icmp := data[34:]; icmp[0] != 3 || icmp[1] != 13 || checksum(icmp, 0) != 0 || !bytes.Equal(icmp[8:], udp[14:]) {
		t.Errorf("% x", data)
	}
	six := make([]byte, 14+40+8+5)
	six[12], six[13], six[14], six[19], six[20], six[21] = 0x86, 0xdd, 0x60, 13, 17, 64
	six[22], six[37], six[38], six[53] = 0xfd, 1, 0xfd, 2
	copy(six[54:], []byte{0, 99, 0, 53, 0, 13, 0, 1, 'h', 'e', 'l', 'l', 'o'})
	data = answer(six)
	icmp := data[54:]
	if icmp[0] != 1 || icmp[1] != 1 || !bytes.Equal(icmp[8:], six[14:]) || !bytes.Equal(data[22:38], six[38:54]) ||
		checksum(icmp, uint32(^checksum(data[22:54], 58+uint32(len(icmp))))) != 0 {
		t.Errorf("% x", data)
	}

	// Beyond one batch of the library each answer knows its packet.
	var packets [][]byte
	for port := 0; port < 150; port++ {
		packets = append(packets, tcp(1, 50000, 2, 1000+port, syn, 1, 0))
	}
	out := make([]portcullis.Judgement, len(packets))
	if err := j.Packets(packets, out); err != nil {
		t.Fatal(err)
	}
	outgoing := j.Outgoing()
	if len(outgoing) != len(packets) {
		t.Fatal(len(outgoing))
	}
	for n, frame := range outgoing {
		if frame.Packet != n || binary.BigEndian.Uint16(frame.Data[34:]) != uint16(1000+n) {
			t.Fatal(n, frame.Packet)
		}
	}
	if totals, err := e.Totals(); err != nil || totals.RejectsSent != 5+150 {
		t.Error(totals.RejectsSent, err)
	}
}

// tap is a socket that sees what arrives at an interface.
func tap(t *testing.T, name string) int {
	t.Helper()
	const all = 3 << 8 // ETH_P_ALL in network byte order
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrLinklayer{Ifindex: index(t, name), Protocol: all}); err != nil {
		t.Fatal(err)
	}
	wait := syscall.Timeval{Usec: 20000}
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &wait); err != nil {
		t.Fatal(err)
	}
	return fd
}

// arrives is whether such a frame arrives within so long. What leaves does not count.
func arrives(fd int, within time.Duration, wanted func([]byte) bool) bool {
	frame := make([]byte, 2048)
	for end := time.Now().Add(within); time.Now().Before(end); {
		n, from, err := syscall.Recvfrom(fd, frame, 0)
		if err != nil {
			continue
		}
		link, is := from.(*syscall.SockaddrLinklayer)
		if is && link.Pkttype != syscall.PACKET_OUTGOING && wanted(frame[:n]) {
			return true
		}
	}
	return false
}

func TestMirrorsAnswersAndSwitchesOnWires(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	runtime.LockOSThread() // never unlocked: see TestFirewallBetweenNamespaces
	if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
		t.Skip("needs network namespaces: ", err)
	}
	for _, pair := range [][2]string{{"pa", "ha"}, {"pb", "hb"}, {"pm", "hm"}, {"pc", "hc"}, {"pd", "hd"}, {"px", "hx"}} {
		for _, arguments := range [][]string{
			{"link", "add", pair[0], "type", "veth", "peer", "name", pair[1]},
			{"link", "set", pair[0], "up"}, {"link", "set", pair[1], "up"},
		} {
			if out, err := exec.Command("ip", arguments...).CombinedOutput(); err != nil {
				t.Fatal(arguments, string(out), err)
			}
		}
	}
	e, err := portcullis.New(portcullis.Config{RejectDenied: true})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.Apply(documents("c", cluster), documents("p", policies)); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Start(portcullis.Wire{Mirror: "nosuch1"}); !errors.Is(err, portcullis.Interface) || !strings.Contains(err.Error(), "nosuch1") {
		t.Error(err)
	}
	f, err := e.Start(portcullis.Wire{A: "pa", B: "pb", Mirror: "pm",
		Tuning: portcullis.Tuning{NUMA: portcullis.NUMAAnywhere, BusyWait: 3 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := e.Mirror(&portcullis.Mirrored{Verdicts: []portcullis.Verdict{portcullis.Reject}}); err != nil {
		t.Fatal(err)
	}
	mirrored, back := tap(t, "hm"), tap(t, "ha")
	frame := tcp(1, 40000, 2, 22, syn, 1000, 0)
	send(t, "ha", frame)
	if !arrives(back, 5*time.Second, func(f []byte) bool {
		return len(f) >= 54 && f[23] == 6 && f[47] == 0x14 && binary.BigEndian.Uint32(f[42:]) == 1001
	}) {
		t.Error("no reset came back")
	}
	if !arrives(mirrored, 5*time.Second, func(f []byte) bool { return len(f) >= 54 && bytes.Equal(f[14:54], frame[14:54]) }) {
		t.Error("no copy came")
	}
	if err := e.Mirror(nil); err != nil {
		t.Fatal(err)
	}

	// On a switch what is for somebody unknown goes to all others, or to none.
	lan := portcullis.Link{A: "pc", B: "pd", Others: []string{"px"}, Name: "lan"}
	broadcast := tcp(1, 40001, 2, 5432, syn, 1000, 0)
	copy(broadcast, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 7})
	other := tap(t, "hx")
	for _, floods := range []bool{true, false} {
		lan.Learning = portcullis.Learning{Age: time.Minute, Addresses: 64, NoFloods: !floods}
		if err := f.AddWire(lan); err != nil {
			t.Fatal(err)
		}
		send(t, "hc", broadcast)
		came := arrives(other, map[bool]time.Duration{true: 5 * time.Second, false: 500 * time.Millisecond}[floods],
			func(f []byte) bool { return len(f) >= 54 && bytes.Equal(f[14:54], broadcast[14:54]) })
		if came != floods {
			t.Errorf("floods: %v, came: %v", floods, came)
		}
		if err := f.RemoveWire("lan"); err != nil {
			t.Fatal(err)
		}
	}
	lan.Learning = portcullis.Learning{FloodsBurst: 1}
	if err := f.AddWire(lan); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
	if err := f.AddWire(portcullis.Link{A: "pc", Learning: portcullis.Learning{Addresses: 1}}); !errors.Is(err, portcullis.BadValue) {
		t.Error(err)
	}
	if err := f.Halt(); err != nil {
		t.Error(err)
	}
	send(t, "ha", tcp(1, 40002, 2, 22, syn, 2000, 0))
	if arrives(back, 300*time.Millisecond, func(f []byte) bool { return len(f) >= 54 && f[47] == 0x14 }) {
		t.Error("a firewall that was halted answers")
	}
}
