//! Objects as a feed hands them to the world: what pods and policies of both clusters have in common.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use portcullis::kube::{Entry, Key, Kind, Object, Pod};
use portcullis_policy::model::{
    LabelSelector, Labels, NamespaceScope, PodSelector, Policy, PolicyKind, PolicyRef, Requirement,
    Workload,
};

pub(super) fn entry(
    kind: Kind,
    namespace: Option<String>,
    name: impl Into<String>,
    object: Object,
) -> Entry {
    Entry {
        key: Key {
            kind,
            namespace,
            name: name.into(),
        },
        object: Some(object),
        problems: Vec::new(),
        annotations: None,
    }
}

/// The pod `pod-NUMBER`, which has an address of its own.
pub(super) fn pod(number: u32, namespace: &str, node: &str, labels: Labels) -> Entry {
    let name = format!("pod-{number}");
    let workload = Workload {
        uid: format!("0000000b-0000-4000-8000-{number:012x}"),
        namespace: namespace.to_owned(),
        name: name.clone(),
        labels: labels.into(),
        service_account: "default".into(),
        node: Some(node.into()),
        addresses: vec![IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))],
        host_network: false,
        finished: false,
        ports: Arc::default(),
    };
    let pod = Pod {
        workload: Arc::new(workload),
        created_secs: None,
        terminating: false,
        withdrawn: false,
        static_uid: None,
        host_ports: Box::default(),
        tokens: Box::default(),
    };
    entry(
        Kind::Pod,
        Some(namespace.to_owned()),
        name,
        Object::Pod(pod),
    )
}

/// A policy for pods of its namespace that isolates nobody yet.
pub(super) fn policy(namespace: &str, name: &str, subject: LabelSelector) -> Policy {
    Policy {
        name: PolicyRef {
            kind: PolicyKind::NetworkPolicy,
            namespace: Some(namespace.to_owned()),
            name: name.to_owned(),
        },
        tier: "default".to_owned(),
        order: 1000.0,
        subject: PodSelector {
            namespaces: NamespaceScope::Named(namespace.to_owned()),
            pods: subject,
        },
        ingress: None,
        egress: None,
    }
}

pub(super) fn policy_entry(policy: Policy) -> Entry {
    entry(
        Kind::NetworkPolicy,
        policy.name.namespace.clone(),
        policy.name.name.clone(),
        Object::Policy(Arc::new(policy)),
    )
}

/// Pods with this label.
pub(super) fn requires(key: &str, value: &str) -> LabelSelector {
    let values = vec![value.to_owned()];
    LabelSelector(vec![Requirement::In(key.to_owned(), values)])
}
