//! What can go wrong when a firewall is set up or changed.

/// Why a firewall or an engine could not be made or changed. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The cluster contradicts itself, or the policies are too large to compile.
    #[error("error: {0}")]
    Policy(#[from] portcullis_policy::EngineError),
    /// A prefix that the address table does not take.
    #[error("error: {0}")]
    Prefix(#[from] portcullis_identity_table::PrefixError),
    /// The address table is full.
    #[error("error: identity table: {0}")]
    Table(#[from] portcullis_identity_table::TableError),
    /// The program was not what the policies say, and was not published: a bug in this project.
    #[error("error: the compiled policies failed their proof, please report this: {0}")]
    Proof(#[from] Box<portcullis_policy::Mismatch>),
    /// No policy declares a set of this name.
    #[error("error: no set {name:?}; the policies declare {}", list(.known))]
    NoSuchSet {
        /// The name asked for.
        name: String,
        /// The sets there are.
        known: Vec<String>,
    },
    /// An interface cannot be used.
    #[cfg(feature = "xdp")]
    #[error("error: {0}")]
    Port(#[from] portcullis_dataplane::port::xdp::Error),
    /// The two ends of a wire have different numbers of queues.
    #[cfg(feature = "xdp")]
    #[error(
        "error: wire {a}:{b}: {a} has {a_queues} queues and {b} has {b_queues}: make them equal \
         (ethtool -L NAME combined N, or numrxqueues of a veth)"
    )]
    Queues {
        /// One interface.
        a: String,
        /// Its receive queues.
        a_queues: usize,
        /// The other interface.
        b: String,
        /// Its receive queues.
        b_queues: usize,
    },
    /// A worker cannot run on the CPU that was asked for.
    #[cfg(feature = "xdp")]
    #[error(
        "error: CPU {cpu}: {source}; this process may use {}",
        .allowed.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
    )]
    Cpu {
        /// The CPU.
        cpu: usize,
        /// Those that may be used.
        allowed: Vec<usize>,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A wire of this name is there already.
    #[cfg(feature = "xdp")]
    #[error("error: wire {name}: there already; remove it first, or give this one another name")]
    WireExists {
        /// The name.
        name: String,
    },
    /// An interface belongs to another wire.
    #[cfg(feature = "xdp")]
    #[error("error: interface {interface}: belongs to wire {wire}; remove that first")]
    InterfaceInUse {
        /// The interface.
        interface: String,
        /// The wire that has it.
        wire: String,
    },
    /// A switch of too few or too many interfaces.
    #[cfg(feature = "xdp")]
    #[error("error: switch {name}: {ports} interfaces; it takes 2 to 64")]
    SwitchPorts {
        /// The switch.
        name: String,
        /// How many were named.
        ports: usize,
    },
    /// No wire has this name.
    #[cfg(feature = "xdp")]
    #[error("error: no wire {name}; there are {}", list(.known))]
    NoSuchWire {
        /// The name asked for.
        name: String,
        /// The wires there are.
        known: Vec<String>,
    },
    /// The system refused a thread or a descriptor.
    #[error("error: {0}: {1}")]
    System(&'static str, #[source] std::io::Error),
}

/// At most ten names, for a message.
fn list(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => {
            let more = if names.len() > 10 { ", ..." } else { "" };
            names[..names.len().min(10)].join(", ") + more
        }
    }
}
