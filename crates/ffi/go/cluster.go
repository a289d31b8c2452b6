package portcullis

/*
#include "bridge.h"
*/
import "C"

import (
	"net/netip"
	"unsafe"
)

// Cluster is one made in code. The order of the lists means nothing.
type Cluster struct {
	// Endpoints that live.
	Endpoints []Endpoint
	// Namespaces; one that only endpoints mention has no other labels than its name.
	Namespaces []Namespace
	// ServiceAccounts; one that only endpoints mention has no labels.
	ServiceAccounts []ServiceAccount
	Nodes           []Node
}

// Namespace is a namespace and its labels; "kubernetes.io/metadata.name" is set to its name.
type Namespace struct {
	Name   string
	Labels map[string]string
}

// ServiceAccount is a service account and its labels.
type ServiceAccount struct {
	Namespace, Name string
	Labels          map[string]string
}

// Node is a node, its labels and its own addresses.
type Node struct {
	Name      string
	Labels    map[string]string
	Addresses []netip.Addr
}

// ApplyPolicies is [Engine.Apply] with values instead of documents. A cluster of nil leaves the one in
// force, endpoints that came and went included. What is wrong with a policy is [BadValue], and the error
// names the policy, the rule and the field.
func (e *Engine) ApplyPolicies(cluster *Cluster, policies PolicySet) (Applied, error) {
	return e.applyPolicies("ApplyPolicies", 0, cluster, &policies)
}

// ReplaceCluster is [Engine.SetCluster] with values instead of documents.
func (e *Engine) ReplaceCluster(cluster Cluster) (Applied, error) {
	var a arena
	defer a.free()
	c := a.cluster(&cluster)
	applied := C.portcullis_applied{struct_size: C.sizeof_portcullis_applied}
	err := e.do("ReplaceCluster", &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_set_cluster_values(handle, c, &applied)
	})
	return goApplied(&applied), err
}

// StagePolicies is [Engine.Stage] with values instead of documents.
func (e *Engine) StagePolicies(policies PolicySet) error {
	b, err := build("StagePolicies", &policies)
	if err != nil {
		return err
	}
	defer b.free()
	return e.do("StagePolicies", nil, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_stage_policies(handle, b.handle)
	})
}

// DiffPolicies is [Engine.Diff] with values instead of documents. A cluster of nil is the one in force.
func (e *Engine) DiffPolicies(cluster *Cluster, policies PolicySet) (string, int, error) {
	var a arena
	defer a.free()
	c := a.cluster(cluster)
	if a.nul {
		return "", 0, &Error{Op: "DiffPolicies", Status: BadValue, Text: "error: a text with a NUL inside"}
	}
	b, err := build("DiffPolicies", &policies)
	if err != nil {
		return "", 0, err
	}
	defer b.free()
	var changes C.size_t
	text, err := e.text("DiffPolicies", func(handle C.uintptr_t, buffer *C.char, size C.size_t, needed *C.size_t) C.int32_t {
		return C.bridge_engine_diff_policies(handle, c, b.handle, buffer, size, needed, &changes)
	})
	return text, int(changes), err
}

func (e *Engine) applyPolicies(op string, zone uint16, cluster *Cluster, policies *PolicySet) (Applied, error) {
	var a arena
	defer a.free()
	c := a.cluster(cluster)
	b, err := build(op, policies)
	if err != nil {
		return Applied{}, err
	}
	defer b.free()
	applied := C.portcullis_applied{struct_size: C.sizeof_portcullis_applied}
	err = e.do(op, &a, func(handle C.uintptr_t) C.int32_t {
		return C.bridge_engine_apply_policies(handle, C.uint16_t(zone), c, b.handle, &applied)
	})
	return goApplied(&applied), err
}

// cluster is C's; NULL for nil.
func (a *arena) cluster(cluster *Cluster) *C.portcullis_cluster {
	if cluster == nil {
		return nil
	}
	c := (*C.portcullis_cluster)(a.alloc(1, C.sizeof_portcullis_cluster))
	c.struct_size, c.endpoint_size = C.sizeof_portcullis_cluster, C.sizeof_portcullis_endpoint
	c.endpoints, c.endpoint_count = a.endpoints(cluster.Endpoints), C.size_t(len(cluster.Endpoints))
	count := len(cluster.Namespaces)
	c.namespaces = (*C.portcullis_namespace)(a.alloc(count, C.sizeof_portcullis_namespace))
	c.namespace_count = C.size_t(count)
	for n, from := range cluster.Namespaces {
		to := &unsafe.Slice(c.namespaces, count)[n]
		to.name = a.text(from.Name)
		to.labels, to.label_count = a.labels(from.Labels)
	}
	count = len(cluster.ServiceAccounts)
	c.service_accounts = (*C.portcullis_service_account)(a.alloc(count, C.sizeof_portcullis_service_account))
	c.service_account_count = C.size_t(count)
	for n, from := range cluster.ServiceAccounts {
		to := &unsafe.Slice(c.service_accounts, count)[n]
		to.namespace_name, to.name = a.text(from.Namespace), a.text(from.Name)
		to.labels, to.label_count = a.labels(from.Labels)
	}
	count = len(cluster.Nodes)
	c.nodes = (*C.portcullis_node)(a.alloc(count, C.sizeof_portcullis_node))
	c.node_count = C.size_t(count)
	for n, from := range cluster.Nodes {
		to := &unsafe.Slice(c.nodes, count)[n]
		to.name = a.text(from.Name)
		to.labels, to.label_count = a.labels(from.Labels)
		to.addresses, to.address_count = a.addresses(from.Addresses)
	}
	return c
}
