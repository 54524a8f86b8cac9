//! Objects by their labels, as the API server selects them: it reads the words, and lists with the rights of the person who asks.

use std::collections::BTreeSet;

use super::fleet::Node;
use super::pod::Pod;
use super::{Cluster, refusal};
use crate::client::quoted;
use crate::failure::Failure;

/// A pod that was selected; one that is going, or that has ended, is not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selected {
    /// Its name.
    pub name: String,
    /// Tells it from a successor of the same name.
    pub uid: String,
    /// Where it runs; absent before that is known.
    pub node: Option<String>,
}

impl Cluster {
    /// The live pods of a namespace with these labels, by name.
    pub async fn selected_pods(
        &self,
        namespace: &str,
        labels: &str,
    ) -> Result<Vec<Selected>, Failure> {
        let at = quoted(namespace).replace('/', "%2F");
        let path = format!("/api/v1/namespaces/{at}/pods");
        let pods = self.list::<Pod>(&path, labels).await.map_err(|error| {
            let doing = format!("list pods in namespace {namespace}");
            let instead = "have a role with that right bound to you, or wait for pods by name";
            refusal::selection(&doing, labels, instead, &error)
        })?;
        let live = pods
            .into_iter()
            .filter(|pod| !pod.is_going() && !pod.is_finished());
        let mut selected: Vec<Selected> = live
            .map(|pod| Selected {
                node: pod.node(),
                name: pod.metadata.name,
                uid: pod.metadata.uid,
            })
            .collect();
        selected.sort_unstable();
        Ok(selected)
    }

    /// The names of nodes with these labels.
    pub(super) async fn labelled_nodes(&self, labels: &str) -> Result<BTreeSet<String>, Failure> {
        let nodes = self.list::<Node>("/api/v1/nodes", labels).await;
        let nodes = nodes.map_err(|error| {
            let instead =
                "have a role with that right bound to you, or name nodes with --node NAME";
            refusal::selection("list nodes", labels, instead, &error)
        })?;
        Ok(nodes.into_iter().map(|node| node.metadata.name).collect())
    }
}
