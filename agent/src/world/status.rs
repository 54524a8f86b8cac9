//! What the world says about itself: for `status`, metrics and `wait`, never for a verdict.

use std::time::SystemTime;

use crate::kube::Problem;

/// An object that was refused, whole or in part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why, at least one.
    pub problems: Vec<Problem>,
    /// Nothing of the object is in force.
    pub whole: bool,
    /// Since when these problems stand.
    pub since: SystemTime,
}

/// State of one kind's feed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Feed {
    /// Its objects have been listed completely once.
    pub in_sync: bool,
    /// What fails now.
    pub trouble: Option<String>,
}

/// How many objects there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Namespaces.
    pub namespaces: usize,
    /// Nodes.
    pub nodes: usize,
    /// Pods of the cluster.
    pub pods: usize,
    /// Pods bound to this node.
    pub local_pods: usize,
    /// Policies of all kinds.
    pub policies: usize,
    /// Services.
    pub services: usize,
    /// Ready backends of all Services.
    pub ready_backends: usize,
    /// Objects refused, whole or in part.
    pub refused: usize,
}
