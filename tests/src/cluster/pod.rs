//! A running pod: what the API says of it, and its network namespace.

use std::net::IpAddr;
use std::path::Path;

use portcullis_lab::NetNs;
use serde_json::Value;

use super::Node;

/// A pod with a network of its own.
#[derive(Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Its network namespace.
    pub netns: NetNs,
}

impl Pod {
    /// From the API's object of a pod that runs.
    #[must_use]
    pub fn of(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let uid = text(&object["metadata"]["uid"]);
        let node = match object["spec"]["nodeName"].as_str() {
            Some("n1") => Node::n1(),
            _ => Node::n2(),
        };
        let processes = node.processes_of(&uid);
        let process = processes.first().expect("a pod that runs has a process");
        let netns = NetNs::open(Path::new(&format!("/proc/{process}/ns/net")));
        let ips = object["status"]["podIPs"].as_array().into_iter().flatten();
        Self {
            name: text(&object["metadata"]["name"]),
            uid,
            addresses: ips
                .map(|ip| text(&ip["ip"]).parse().expect("the API tells addresses"))
                .collect(),
            netns: netns.expect("a process has a network namespace"),
        }
    }
}
