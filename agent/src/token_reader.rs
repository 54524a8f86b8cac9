//! `portcullis token-reader`: reads pods' projected service account tokens for the agent, and nothing else for nobody else.
//!
//! ```text
//! agent -- pod uid, audience --> token reader -- openat2 --> /var/lib/kubelet/pods/UID/volumes/kubernetes.io~projected/*
//!       <-- token, or why none --
//! ```
//! A container of its own, because of the one capability (`CAP_DAC_READ_SEARCH`): token files are readable for their pod's user alone. It has no network, no
//! API token and no other right. It is told pods by the agent only; what it hands out says of itself that it is that pod's and for that audience.

pub mod ask;
mod serve;
mod volumes;

pub use ask::Reader;
pub use serve::{Settings, run};

use portcullis_imds::secret::Secret;
use serde::{Deserialize, Serialize};

/// No line is longer: a token has less than 16 KiB.
const LINE: u64 = 32 * 1024;

/// What the agent asks. One on each connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Question {
    /// The pod.
    pod_uid: String,
    /// For whom the token has to be.
    audience: String,
    /// How long a pod that is starting may take to get it.
    wait_ms: u64,
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// The token, or why there is none.
    token: Result<Secret, String>,
}
