package portcullis_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
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

// shop is web-0 and db-0, and a namespace of operators.
func shop() *portcullis.Cluster {
	return &portcullis.Cluster{
		Endpoints: []portcullis.Endpoint{
			{Namespace: "shop", Name: "web-0", Labels: map[string]string{"app": "web"},
				Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
			{Namespace: "shop", Name: "db-0", Labels: map[string]string{"app": "db"},
				Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}},
		},
		Namespaces:      []portcullis.Namespace{{Name: "tools", Labels: map[string]string{"team": "ops"}}},
		ServiceAccounts: []portcullis.ServiceAccount{{Namespace: "shop", Name: "default"}},
		Nodes:           []portcullis.Node{{Name: "node-1", Addresses: []netip.Addr{netip.MustParseAddr("10.9.0.1")}}},
	}
}

// Documents of every shape, and the same in code: no flow is decided otherwise.
const everyShape = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
    - from:
        - podSelector: {matchExpressions: [{key: app, operator: In, values: [api, web]}]}
        - namespaceSelector: {matchLabels: {team: ops}}
        - ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.8/29]}
      ports: [{port: 5432, endPort: 5440}, {protocol: UDP, port: dns}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: ops-first}
spec:
  tier: Admin
  priority: 7
  subject: {namespaces: {}}
  ingress:
    - {name: monitoring, action: Accept, from: [{namespaces: {matchLabels: {team: ops}}}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: feed, labels: {list: threats}}
spec: {nets: [198.51.100.0/24]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: no-threats}
spec:
  order: 5
  selector: app == 'web'
  types: [Ingress, Egress]
  ingress:
    - {action: Deny, source: {selector: list == 'threats'}}
    - {action: Log, protocol: ICMP, icmp: {type: 8}}
    - {action: Pass}
  egress:
    - {action: Allow, ipVersion: 4, notProtocol: TCP}
    - {action: Allow, protocol: TCP, destination: {notPorts: [25, "100:200"]}}
`

func everyShapeInCode() portcullis.PolicySet {
	ping, ops := uint8(8), map[string]string{"team": "ops"}
	anything := portcullis.MatchAny()
	block := portcullis.MatchAll(
		portcullis.MatchCIDR(netip.MustParsePrefix("192.0.2.0/24")),
		portcullis.MatchNot(portcullis.MatchCIDR(netip.MustParsePrefix("192.0.2.8/29"))))
	inShop := func(selector string) portcullis.Match {
		return portcullis.MatchAll(portcullis.MatchNamespace("shop"), portcullis.MatchPodLabels(selector))
	}
	threats := portcullis.MatchOneOf(portcullis.MatchPodLabels("list == 'threats'"), portcullis.MatchSet("GlobalNetworkSet//feed"))
	return portcullis.PolicySet{
		Sets: []portcullis.CIDRSet{
			{Name: "GlobalNetworkSet//feed", Prefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}},
		},
		Tiers: []portcullis.Tier{
			{Name: "kube-admin", End: portcullis.EndPass, Policies: []portcullis.Policy{{
				Kind: portcullis.KindClusterNetworkPolicy, Name: "ops-first",
				Subject: portcullis.MatchPod(), Directions: portcullis.Ingress,
				Ingress: []portcullis.Rule{{
					Name: "monitoring", Action: portcullis.ActionAllow, AllTraffic: true,
					Source: portcullis.MatchNamespaceWith(ops), Destination: anything,
				}},
			}}},
			{Name: "default", Policies: []portcullis.Policy{
				{
					Kind: portcullis.KindGlobalNetworkPolicy, Name: "no-threats",
					Subject:    portcullis.MatchPodWith(map[string]string{"app": "web"}),
					Directions: portcullis.Ingress + portcullis.Egress,
					Ingress: []portcullis.Rule{
						{Action: portcullis.ActionDeny, Source: threats, Destination: anything, AllTraffic: true},
						{Action: portcullis.ActionLog, Source: anything, Destination: anything, Traffic: []portcullis.Traffic{
							{ProtocolMatch: portcullis.ProtocolIs, Protocol: 1, ICMP: &portcullis.ICMP{Type: &ping}}}},
						{Action: portcullis.ActionPass, Source: anything, Destination: anything, AllTraffic: true},
					},
					Egress: []portcullis.Rule{
						{Action: portcullis.ActionAllow, Source: anything, Destination: anything, Traffic: []portcullis.Traffic{
							{IPVersion: 4, ProtocolMatch: portcullis.ProtocolIsNot, Protocol: 6}}},
						{Action: portcullis.ActionAllow, Source: anything, Destination: anything, Traffic: []portcullis.Traffic{
							{ProtocolMatch: portcullis.ProtocolIs, Protocol: 6, NotDestinationPorts: []portcullis.PortRange{
								portcullis.OnePort(25), {First: 100, Last: 200}}}}},
					},
				},
				{
					Kind: portcullis.KindNetworkPolicy, Namespace: "shop", Name: "db",
					Subject: inShop("app == 'db'"), Directions: portcullis.Ingress,
					Ingress: []portcullis.Rule{{
						Action: portcullis.ActionAllow,
						Source: portcullis.MatchOneOf(inShop("app in {'api', 'web'}"),
							portcullis.MatchNamespaceLabels("team == 'ops'"), block),
						Destination: anything,
						Traffic: []portcullis.Traffic{
							portcullis.TCP(portcullis.PortRange{First: 5432, Last: 5440}),
							portcullis.UDP(portcullis.NamedPortRange("dns")),
						},
						Origin: portcullis.Origin{File: "agent.go", Line: 7, Column: 3},
					}},
				},
			}},
		},
	}
}

func TestPoliciesInCodeAreThoseOfDocuments(t *testing.T) {
	e, err := portcullis.New(portcullis.Config{ProvePolicies: true, ProofThreads: 2, ProgramBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	j := judge(t, e)
	cluster := shop()
	cluster.Endpoints[1].Ports = []portcullis.NamedPort{{Name: "dns", Protocol: 17, Port: 5353}}
	applied, err := e.ApplyPolicies(cluster, everyShapeInCode())
	if err != nil || applied.Policies != 3 || applied.Endpoints != 2 || applied.Generation != 1 {
		t.Fatalf("%+v, %v", applied, err)
	}
	text, changes, err := e.Diff(nil, documents("every.yaml", everyShape))
	if err != nil || changes != 0 {
		t.Fatal(text, changes, err)
	}
	if verdict(t, j, "10.0.0.1", "10.0.0.2", 5433) != portcullis.Allow || verdict(t, j, "10.0.0.1", "10.0.0.2", 22) != portcullis.Deny {
		t.Error("wrong verdicts")
	}
	explained, err := e.Explain(flow("10.0.0.1", "10.0.0.2", 5433))
	if err != nil || !strings.Contains(explained, "agent.go:7:3") {
		t.Error(explained, err)
	}
	if _, changes, err := e.DiffPolicies(nil, portcullis.PolicySet{}); err != nil || changes == 0 {
		t.Error(changes, err)
	}
	if err := e.StagePolicies(portcullis.PolicySet{}); err != nil {
		t.Error(err)
	}
	// An endpoint that came stays when policies alone are replaced.
	if _, err := e.Upsert(portcullis.Endpoint{Namespace: "tools", Name: "probe",
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.9")}}); err != nil {
		t.Fatal(err)
	}
	if verdict(t, j, "10.0.0.9", "10.0.0.2", 22) != portcullis.Allow {
		t.Error("operators do not come in")
	}
	if applied, err = e.ApplyPolicies(nil, portcullis.PolicySet{}); err != nil || applied.Endpoints != 3 || applied.Policies != 0 {
		t.Errorf("%+v, %v", applied, err)
	}
	if applied, err = e.SetPolicies(documents("p", policies)); err != nil || applied.Endpoints != 3 || applied.Policies != 1 {
		t.Errorf("%+v, %v", applied, err)
	}
	if applied, err = e.ReplaceCluster(*shop()); err != nil || applied.Endpoints != 2 || applied.Policies != 1 {
		t.Errorf("%+v, %v", applied, err)
	}
	if err := e.ReplaceSet("GlobalNetworkSet//feed", nil); !errors.Is(err, portcullis.NoSuchSet) {
		t.Error(err)
	}
}

func TestWhatIsWrongWithAPolicyIsNamed(t *testing.T) {
	e := engine(t)
	before, err := e.Applied()
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]func(*portcullis.PolicySet){
		"tier `default`: a tier has a name": func(p *portcullis.PolicySet) { p.Tiers[0].Name = "default" },
		"set `GlobalNetworkSet//feed`": func(p *portcullis.PolicySet) {
			p.Sets = append(p.Sets, p.Sets[0])
		},
		"prefix length 33":                      func(p *portcullis.PolicySet) { p.Sets[0].Prefixes[0] = netip.Prefix{} },
		"policy db: kind 77":                    func(p *portcullis.PolicySet) { p.Tiers[1].Policies[1].Kind = 77 },
		"NetworkPolicy/shop/db: directions 0":   func(p *portcullis.PolicySet) { p.Tiers[1].Policies[1].Directions = 0 },
		"db: subject: kind 0 is none":           func(p *portcullis.PolicySet) { p.Tiers[1].Policies[1].Subject = portcullis.Match{} },
		"db: egress rule: egress is not one of": func(p *portcullis.PolicySet) { p.Tiers[1].Policies[1].Egress = make([]portcullis.Rule, 1) },
		"there is one of this name":             func(p *portcullis.PolicySet) { p.Tiers[0].Policies = p.Tiers[1].Policies },
		"shop/db: ingress rule 0: action: 0":    func(p *portcullis.PolicySet) { p.Tiers[1].Policies[1].Ingress[0].Action = 0 },
		"rule 0: source: kind 0":                func(p *portcullis.PolicySet) { p.Tiers[1].Policies[1].Ingress[0].Source = portcullis.Match{} },
		"rule 0: destination: selector `a = b`:": func(p *portcullis.PolicySet) {
			p.Tiers[1].Policies[1].Ingress[0].Destination = portcullis.MatchPodLabels("a = b")
		},
		"rule 0: destination: there is no set": func(p *portcullis.PolicySet) {
			p.Tiers[1].Policies[1].Ingress[0].Destination = portcullis.MatchSet("x")
		},
		"rule 0: destination: prefix": func(p *portcullis.PolicySet) {
			p.Tiers[1].Policies[1].Ingress[0].Destination = portcullis.MatchCIDR(netip.Prefix{})
		},
		"rule 0: destination: all of no parts": func(p *portcullis.PolicySet) { p.Tiers[1].Policies[1].Ingress[0].Destination = portcullis.MatchAll() },
		"rule 0: traffic 1: ip_version 5":      func(p *portcullis.PolicySet) { p.Tiers[1].Policies[1].Ingress[0].Traffic[1].IPVersion = 5 },
		"rule 0: traffic 0: ports 9 to 8": func(p *portcullis.PolicySet) {
			p.Tiers[1].Policies[1].Ingress[0].Traffic[0].DestinationPorts[0] = portcullis.PortRange{First: 9, Last: 8}
		},
		"rule 0: traffic: either all_traffic": func(p *portcullis.PolicySet) { p.Tiers[1].Policies[1].Ingress[0].AllTraffic = true },
		"a text with a NUL":                   func(p *portcullis.PolicySet) { p.Tiers[1].Policies[1].Name = "a\x00b" },
	}
	for wanted, change := range cases {
		set := everyShapeInCode()
		change(&set)
		if wanted == "prefix length 33" {
			wanted = "address family 0" // a prefix that is none
		}
		if wanted == "rule 0: destination: prefix" {
			wanted = "rule 0: destination: address family 0"
		}
		_, err := e.ApplyPolicies(shop(), set)
		if !errors.Is(err, portcullis.BadValue) || !strings.Contains(err.Error(), wanted) {
			t.Errorf("%q: %v", wanted, err)
		}
	}
	// Labels are no language: nothing in them is read as one.
	hostile := everyShapeInCode()
	hostile.Tiers[1].Policies[1].Subject = portcullis.MatchPodWith(map[string]string{"app' || all() || 'a": "' || all() || '"})
	if _, err := e.ApplyPolicies(shop(), hostile); err != nil {
		t.Error(err)
	}
	if verdict(t, judge(t, e), "10.0.0.1", "10.0.0.2", 22) != portcullis.Allow {
		t.Error("labels were read as a selector")
	}
	if after, err := e.Applied(); err != nil || after.Generation != before.Generation+1 {
		t.Error("a refused set changed something: ", after, err)
	}
}

// What json.Marshal makes of the types of k8s.io/api has fields that people do not write.
func TestMarshalledObjectsAreDocuments(t *testing.T) {
	type object = map[string]any
	policy, err := json.Marshal(object{
		"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1",
		"metadata": object{"name": "web-to-db", "namespace": "shop", "creationTimestamp": nil},
		"spec": object{
			"podSelector": object{"matchLabels": object{"app": "db"}},
			"ingress": []object{{
				"from":  []object{{"podSelector": object{"matchLabels": object{"app": "web"}}}},
				"ports": []object{{"protocol": "TCP", "port": 5432}},
			}},
			"policyTypes": []string{"Ingress"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	e := engine(t)
	if _, err := e.SetPolicies([]portcullis.Document{{Name: "watch", Data: policy}}); err != nil {
		t.Fatal(err)
	}
	j := judge(t, e)
	if verdict(t, j, "10.0.0.1", "10.0.0.2", 5432) != portcullis.Allow || verdict(t, j, "10.0.0.1", "10.0.0.2", 22) != portcullis.Deny {
		t.Error("wrong verdicts")
	}
}

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
