package portcullis_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

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
