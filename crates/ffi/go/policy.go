package portcullis

/*
#include "bridge.h"
*/
import "C"

import "net/netip"

// PolicySet is policies made in code: whatever documents can say, it can say. The decision for one
// direction of a flow: walk the tiers in order; skip one none of whose policies applies to the endpoint in
// this direction; else the first rule that matches decides. [ActionAllow] and [ActionDeny] end, [ActionPass]
// goes on with the next tier, [ActionLog] with the next rule; at the end of a tier its End counts. After the
// last tier: allow.
type PolicySet struct {
	// Tiers in the order in which they decide.
	Tiers []Tier
	// Sets of prefixes that rules name ([MatchSet]).
	Sets []CIDRSet
}

// CIDRSet is a named set of prefixes, which [Engine.ReplaceSet] may replace later.
type CIDRSet struct {
	Name     string // such as "GlobalNetworkSet//feed"
	Prefixes []netip.Prefix
}

// TierEnd is what the end of a tier means for an endpoint to which one of its policies applies.
type TierEnd uint8

// What it may mean.
const (
	EndDeny TierEnd = C.PORTCULLIS_TIER_DENY // deny (the default)
	EndPass TierEnd = C.PORTCULLIS_TIER_PASS // go on with the next tier
)

// Tier is an ordered group of policies.
type Tier struct {
	// Name is "kube-admin", "default" or "kube-baseline" for what stands for those of Kubernetes, or any
	// other.
	Name string
	// End of the tier.
	End TierEnd
	// Policies in the order in which they decide.
	Policies []Policy
}

// PolicyKind is how a policy is named; it means nothing else.
type PolicyKind uint8

// The kinds.
const (
	KindNetworkPolicy                 PolicyKind = C.PORTCULLIS_KIND_NETWORK_POLICY
	KindClusterNetworkPolicy          PolicyKind = C.PORTCULLIS_KIND_CLUSTER_NETWORK_POLICY
	KindAdminNetworkPolicy            PolicyKind = C.PORTCULLIS_KIND_ADMIN_NETWORK_POLICY
	KindBaselineAdminNetworkPolicy    PolicyKind = C.PORTCULLIS_KIND_BASELINE_ADMIN_NETWORK_POLICY
	KindCalicoNetworkPolicy           PolicyKind = C.PORTCULLIS_KIND_CALICO_NETWORK_POLICY
	KindGlobalNetworkPolicy           PolicyKind = C.PORTCULLIS_KIND_GLOBAL_NETWORK_POLICY
	KindStagedNetworkPolicy           PolicyKind = C.PORTCULLIS_KIND_STAGED_NETWORK_POLICY
	KindStagedGlobalNetworkPolicy     PolicyKind = C.PORTCULLIS_KIND_STAGED_GLOBAL_NETWORK_POLICY
	KindStagedKubernetesNetworkPolicy PolicyKind = C.PORTCULLIS_KIND_STAGED_KUBERNETES_NETWORK_POLICY
)

// Direction of flows as seen from the endpoint that a policy selects.
type Direction uint8

// The directions, to be added up for [Policy.Directions].
const (
	Ingress Direction = C.PORTCULLIS_INGRESS // towards it
	Egress  Direction = C.PORTCULLIS_EGRESS  // from it
)

// Policy applies rules to the endpoints that it selects.
type Policy struct {
	// Kind, Namespace and Name are its name. What a policy of a namespace selects and names must say the
	// namespace itself ([MatchNamespace]).
	Kind            PolicyKind
	Namespace, Name string
	// Staged: it decides nothing, and is told of.
	Staged bool
	// Subject is the endpoints that it applies to: pods only, never host-networked ones.
	Subject Match
	// Directions that it says something about, Ingress + Egress for both: what none of its rules decides
	// there is left to the others and to the end of its tier. So one without rules isolates.
	Directions Direction
	// Ingress and Egress rules in the order in which they decide.
	Ingress, Egress []Rule
	// Origin is where it was written.
	Origin Origin
}

// Action is what a rule does with a flow that it matches.
type Action uint8

// The actions.
const (
	ActionAllow Action = C.PORTCULLIS_ACTION_ALLOW // the direction allows the flow
	ActionDeny  Action = C.PORTCULLIS_ACTION_DENY  // the direction denies the flow
	ActionPass  Action = C.PORTCULLIS_ACTION_PASS  // leave this tier, go on with the next
	ActionLog   Action = C.PORTCULLIS_ACTION_LOG   // note the flow, go on with the next rule
)

// Rule matches a flow when Source, Destination and any of Traffic match.
type Rule struct {
	Name   string // its own; may be empty
	Action Action
	// Source sends the first packet of the flow, Destination receives it. Neither may be left out:
	// [MatchAny] is anything.
	Source, Destination Match
	// AllTraffic: whatever is sent. Else any of Traffic, of which there must be some.
	AllTraffic bool
	Traffic    []Traffic
	// Origin is where it was written.
	Origin Origin
}

// Origin is where something was written, for [Engine.Explain] and records; the zero value is code.
type Origin struct {
	File         string
	Line, Column uint32 // from 1
}

// ProtocolMatch says which protocols [Traffic.Protocol] means.
type ProtocolMatch uint8

// What it may mean.
const (
	AnyProtocol   ProtocolMatch = C.PORTCULLIS_PROTOCOL_ANY // every protocol
	ProtocolIs    ProtocolMatch = C.PORTCULLIS_PROTOCOL_IS  // this one
	ProtocolIsNot ProtocolMatch = C.PORTCULLIS_PROTOCOL_NOT // every other
)

// Traffic is what a rule means; all parts must hold. The zero value is all traffic.
type Traffic struct {
	// IPVersion is 4, 6, or 0 for both.
	IPVersion uint8
	// ProtocolMatch says what Protocol, an IP protocol number, means.
	ProtocolMatch ProtocolMatch
	Protocol      uint8
	// SourcePorts and DestinationPorts match; none: all, and protocols without ports. Those with Not do
	// not match.
	SourcePorts, NotSourcePorts           []PortRange
	DestinationPorts, NotDestinationPorts []PortRange
	// ICMP messages that match, and that do not match; nil says nothing.
	ICMP, NotICMP *ICMP
}

// TCP is TCP to these ports; to all if there are none. UDP and SCTP are alike.
func TCP(ports ...PortRange) Traffic { return to(6, ports) }

// UDP is UDP to these ports; to all if there are none.
func UDP(ports ...PortRange) Traffic { return to(17, ports) }

// SCTP is SCTP to these ports; to all if there are none.
func SCTP(ports ...PortRange) Traffic { return to(132, ports) }

func to(protocol uint8, ports []PortRange) Traffic {
	return Traffic{ProtocolMatch: ProtocolIs, Protocol: protocol, DestinationPorts: ports}
}

// PortRange is ports from the first to the last, or a container port by name on the pod at that end.
type PortRange struct {
	Name        string
	First, Last uint16
}

// OnePort is one port.
func OnePort(port uint16) PortRange { return PortRange{First: port, Last: port} }

// NamedPortRange is the container port of this name.
func NamedPortRange(name string) PortRange { return PortRange{Name: name} }

// ICMP is ICMP or ICMPv6 messages: of any type and code where these are nil.
type ICMP struct{ Type, Code *uint8 }

// Match is an expression over one end of a flow: who or where it is. The functions that begin with Match
// make one; the zero value is refused. "Pod" is a live pod with its own address; host-networked pods are
// their node's address. Selectors are in Calico's language, such as "app == 'web' && !has(canary)", or
// "all()".
type Match struct {
	kind     uint8
	selector string
	labels   map[string]string
	name     string
	prefix   netip.Prefix
	parts    []Match
}

// MatchAny is anything.
func MatchAny() Match { return Match{kind: C.PORTCULLIS_MATCH_ANY} }

// MatchPod is any live pod.
func MatchPod() Match { return Match{kind: C.PORTCULLIS_MATCH_POD} }

// MatchPodLabels is a pod whose own labels satisfy the selector.
func MatchPodLabels(selector string) Match {
	return Match{kind: C.PORTCULLIS_MATCH_POD_LABELS, selector: selector}
}

// MatchPodWith is a pod that has all of these labels, whatever is in them; any pod if there are none.
func MatchPodWith(labels map[string]string) Match {
	return with(C.PORTCULLIS_MATCH_POD_LABELS, labels)
}

// MatchNamespace is a pod in the namespace of this name.
func MatchNamespace(name string) Match {
	return Match{kind: C.PORTCULLIS_MATCH_NAMESPACE, name: name}
}

// MatchNamespaceLabels is a pod whose namespace's labels satisfy the selector ("kubernetes.io/metadata.name"
// included).
func MatchNamespaceLabels(selector string) Match {
	return Match{kind: C.PORTCULLIS_MATCH_NAMESPACE_LABELS, selector: selector}
}

// MatchNamespaceWith is a pod whose namespace has all of these labels.
func MatchNamespaceWith(labels map[string]string) Match {
	return with(C.PORTCULLIS_MATCH_NAMESPACE_LABELS, labels)
}

// MatchServiceAccount is a pod that runs under the service account of this name.
func MatchServiceAccount(name string) Match {
	return Match{kind: C.PORTCULLIS_MATCH_SERVICE_ACCOUNT, name: name}
}

// MatchServiceAccountLabels is a pod whose service account's labels satisfy the selector.
func MatchServiceAccountLabels(selector string) Match {
	return Match{kind: C.PORTCULLIS_MATCH_SERVICE_ACCOUNT_LABELS, selector: selector}
}

// MatchNodeLabels is an address of a node whose labels satisfy the selector.
func MatchNodeLabels(selector string) Match {
	return Match{kind: C.PORTCULLIS_MATCH_NODE_LABELS, selector: selector}
}

// MatchCIDR is an address within the prefix (host bits ignored), whoever owns it.
func MatchCIDR(prefix netip.Prefix) Match {
	return Match{kind: C.PORTCULLIS_MATCH_CIDR, prefix: prefix}
}

// MatchSet is an address within a prefix of the set of this name, one of [PolicySet.Sets].
func MatchSet(name string) Match { return Match{kind: C.PORTCULLIS_MATCH_SET, name: name} }

// MatchNamespaceHas holds whatever the address, if the labels of the cluster's namespace of this name
// satisfy the selector.
func MatchNamespaceHas(name, selector string) Match {
	return Match{kind: C.PORTCULLIS_MATCH_NAMESPACE_HAS, name: name, selector: selector}
}

// MatchNot is what the part is not.
func MatchNot(part Match) Match {
	return Match{kind: C.PORTCULLIS_MATCH_NOT, parts: []Match{part}}
}

// MatchAll is what all parts are; none is refused.
func MatchAll(parts ...Match) Match { return Match{kind: C.PORTCULLIS_MATCH_ALL, parts: parts} }

// MatchOneOf is what at least one part is; with none: nothing.
func MatchOneOf(parts ...Match) Match { return Match{kind: C.PORTCULLIS_MATCH_ONE_OF, parts: parts} }

func with(kind uint8, labels map[string]string) Match {
	if len(labels) == 0 {
		return Match{kind: kind, selector: "all()"}
	}
	return Match{kind: kind, labels: labels}
}
