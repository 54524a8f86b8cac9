//! Where objects come from: an API server (`watch`) or a directory of YAML (`manifests`), two feeds of one model.
//!
//! ```text
//! API server --watch-----\
//!                         >-- convert --> Batch of Change --mpsc--> world
//! directory  --manifests-/
//! ```
//! Nothing outside this directory knows how Kubernetes writes its objects. What does not parse is refused here, one object at a time and by name
//! (policy-spec 6.1): an unreadable NetworkPolicy still isolates, an unreadable pod is nobody.

pub mod convert;
pub mod event;
mod keep;
pub mod manifests;
mod object;
mod problem;
pub mod signers;
pub mod token;
pub mod watch;

use std::time::Instant;

pub use convert::Trap;
pub use keep::Keep;
pub use object::{
    EndpointSlice, Entry, HostPort, Key, Kind, Object, Pod, Service, ServiceAccount, ServicePort,
    SliceEndpoint, SlicePort, Way,
};
pub use problem::{Problem, Reason};

/// Changes that belong together: the world takes in all of them before it answers again.
pub type Batch = Vec<Change>;

/// What a feed tells the world.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// This is what the object looks like now.
    Apply(Entry),
    /// The object is gone; with a uid, only if it is still that one (a delete may arrive behind the create of its successor).
    Delete {
        /// Which object.
        key: Key,
        /// `metadata.uid` of what was deleted.
        uid: Option<String>,
    },
    /// All objects of a kind as of now; what is not listed is gone. The first one puts the kind in sync.
    Reset {
        /// The kind that was listed completely.
        kind: Kind,
        /// All its objects.
        live: Vec<Entry>,
    },
    /// The feed of a kind fails (`Some`) or works again (`None`); what is known stays in force meanwhile.
    Trouble {
        /// The kind whose feed it is.
        kind: Kind,
        /// What fails.
        trouble: Option<Trouble>,
    },
}

/// Why a feed fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// In the words of whoever refused.
    pub reason: String,
    /// When it began.
    pub since: Instant,
    /// The right that the agent's service account lacks, if that is it: `list pods`.
    pub lacks: Option<String>,
}
