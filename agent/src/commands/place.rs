//! Whom a command asks: the agent of this node, by its socket, or those of a cluster. In this order:
//! 1. called as `kubectl portcullis`: the cluster's;
//! 2. `--context`, `--kubeconfig`, `--as`, `--as-group`, `--node`, `--agent-namespace` or `--selector` given: the cluster's;
//! 3. else this node's.
//!
//! Never by what happens to be on the machine: the same words mean the same everywhere.

use std::path::PathBuf;

use crate::cli::ClusterArgs;
use crate::cluster::{Access, AsWhom};
use crate::failure::Failure;

/// Namespace of `deploy/portcullis.yaml`.
const NAMESPACE: &str = "portcullis";

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// This node's agent or pins, at this path.
    Here(PathBuf),
    /// The agents of a cluster.
    Cluster(Access),
}

/// Something of this node that can be named by an option or a variable.
#[derive(Clone, Debug)]
pub struct Local<'a> {
    /// The option as typed.
    pub typed: Option<&'a PathBuf>,
    /// How it is spelled.
    pub option: &'static str,
    /// The variable that stands in for it.
    pub variable: &'static str,
    /// What it is without both.
    pub default: &'static str,
}

impl Place {
    /// The place that was meant; `plugin` also stands for options of single verbs that only a cluster has an answer to.
    pub fn of(plugin: bool, cluster: ClusterArgs, local: &Local<'_>) -> Result<Self, Failure> {
        let ClusterArgs {
            kubeconfig,
            context,
            as_user,
            as_groups,
            nodes,
            agent_namespace,
        } = cluster;
        let typed = kubeconfig.is_some()
            || context.is_some()
            || as_user.is_some()
            || !as_groups.is_empty()
            || !nodes.is_empty()
            || agent_namespace.is_some();
        if let (true, Some(_)) = (plugin || typed, local.typed) {
            return Err(Failure::new(
                "PC5001",
                format!("{} is about this node", local.option),
                "the agents of a cluster were asked for",
                format!(
                    "leave it out, or ask this node with `portcullis ... {}`",
                    local.option
                ),
            ));
        }
        if plugin || typed {
            return Ok(Self::Cluster(Access {
                kubeconfig,
                context,
                namespace: agent_namespace.unwrap_or_else(|| NAMESPACE.to_owned()),
                nodes,
                labels: None,
                as_whom: AsWhom {
                    user: as_user,
                    groups: as_groups,
                },
            }));
        }
        let path = match local.typed {
            Some(path) => path.clone(),
            None => std::env::var_os(local.variable)
                .filter(|path| !path.is_empty())
                .map_or_else(|| PathBuf::from(local.default), PathBuf::from),
        };
        Ok(Self::Here(path))
    }

    /// Of a cluster, only the nodes with these labels.
    #[must_use]
    pub fn labelled(self, labels: Option<String>) -> Self {
        match self {
            Self::Cluster(access) => Self::Cluster(Access { labels, ..access }),
            here @ Self::Here(_) => here,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(
        plugin: bool,
        typed: Option<&PathBuf>,
        cluster: ClusterArgs,
    ) -> Result<Place, Failure> {
        let local = Local {
            typed,
            option: "--socket",
            variable: "PORTCULLIS_NO_SUCH_VARIABLE",
            default: "/default",
        };
        Place::of(plugin, cluster, &local)
    }

    fn at_node() -> ClusterArgs {
        ClusterArgs {
            nodes: vec!["n1".to_owned()],
            ..ClusterArgs::default()
        }
    }

    #[test]
    fn the_name_of_the_program_or_an_option_of_clusters_decides() {
        let here = PathBuf::from("/x");
        let none = ClusterArgs::default;
        assert_eq!(
            place(false, None, none()),
            Ok(Place::Here("/default".into()))
        );
        assert_eq!(
            place(false, Some(&here), none()),
            Ok(Place::Here(here.clone()))
        );
        for (plugin, cluster) in [(true, none()), (false, at_node()), (true, at_node())] {
            let nodes = cluster.nodes.clone();
            let expected = Access {
                kubeconfig: None,
                context: None,
                namespace: "portcullis".to_owned(),
                nodes,
                labels: None,
                as_whom: AsWhom::default(),
            };
            assert_eq!(place(plugin, None, cluster), Ok(Place::Cluster(expected)));
        }
    }

    #[test]
    fn who_acts_as_somebody_asks_the_cluster() {
        let cluster = ClusterArgs {
            as_user: Some("eve".to_owned()),
            as_groups: vec!["ops".to_owned()],
            ..ClusterArgs::default()
        };
        let Ok(Place::Cluster(access)) = place(false, None, cluster) else {
            panic!("the API server alone knows users");
        };
        let expected = AsWhom {
            user: Some("eve".to_owned()),
            groups: vec!["ops".to_owned()],
        };
        assert_eq!(access.as_whom, expected);
    }

    #[test]
    fn both_at_once_is_wrong_usage() {
        let here = PathBuf::from("/x");
        for (plugin, cluster) in [(true, ClusterArgs::default()), (false, at_node())] {
            let failure = place(plugin, Some(&here), cluster).expect_err("is contradictory");
            assert_eq!(failure.code, "PC5001");
        }
    }
}
