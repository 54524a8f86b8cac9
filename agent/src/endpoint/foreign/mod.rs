//! What other tools have on this node that decides about the same packets. Named, never touched.
//!
//! Programs in front of ours may end the chain, so that ours are not asked. Whatever else there is comes behind them or beside: a packet passes if
//! everybody lets it.

mod filters;
mod rules;
mod xtables;

pub use filters::{Filter, filters};
pub use rules::rules;

/// A firewall rule or chain that is not ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A rule in this table and chain names the metadata service: kube2iam, kiam, or somebody's own.
    Metadata(String),
    /// Chains with names of this policy agent.
    Agent(&'static str),
}

/// Whose something is, by the name that it gives to its programs and chains; `None` for names that nobody is known by.
#[must_use]
pub fn owner(name: &str) -> Option<&'static str> {
    const NAMES: [(&str, &str); 9] = [
        ("cali", "Calico"),
        ("felix", "Calico"),
        ("cil_", "Cilium"),
        ("CILIUM", "Cilium"),
        ("handle_ingress", "the AWS network policy agent"),
        ("handle_egress", "the AWS network policy agent"),
        ("KUBE-NWPLCY", "kube-router"),
        ("KUBE-POD-FW", "kube-router"),
        ("pc_", "another Portcullis"),
    ];
    NAMES
        .iter()
        .find(|(prefix, _)| name.starts_with(prefix))
        .map(|(_, owner)| *owner)
}
