// Package portcullis embeds the data plane for container firewalls in Go programs: it judges packets
// and flows by Kubernetes, ClusterNetworkPolicy and Calico policies, and runs transparent firewalls
// between two interfaces through AF_XDP.
//
// An [Engine] holds policies, endpoints and connections. A [Judge] is one goroutine's way to ask it,
// in batches. A [Firewall] runs an engine on two interfaces. Events are pulled: see [Engine.Events].
// What is in force comes from documents ([Engine.Apply]) or is made in code ([Engine.ApplyPolicies]).
//
// The package binds libportcullis by cgo and finds it by pkg-config (package "portcullis"). A call
// costs some 100 ns more than the same call from C: hand packets and flows over in batches of 32 or
// more. Nothing calls back from C into Go, and the library installs no signal handlers, so that it
// works beside anything else, a libbpf of the program's own included.
//
// # Errors
//
// Calls of the library that fail answer an [*Error], which wraps a [Status]:
//
//	if errors.Is(err, portcullis.Refused) { ... } // documents are wrong; err tells file, line, column
//
// A failed change leaves everything as it was. After a failed call to judge no packet of the batch may
// pass.
//
// # Goroutines
//
// An engine and a firewall may be used by any goroutines at once; a judge by one at a time
// ([Busy] otherwise). All three are freed by Close, and by the garbage collector if that is forgotten.
package portcullis
