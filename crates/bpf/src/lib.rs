//! The XDP program and its loader: the program parses just enough of a packet to steer it to the
//! AF_XDP socket of its queue, and acts as the failure mode says when there is none. It knows the
//! kernel, interfaces and maps. It must never know policies, identities or connections.
