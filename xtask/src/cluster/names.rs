//! Every name and address of the cluster. What is not made of these is not ours.

use std::fs;
use std::path::{Path, PathBuf};

/// The cgroup that holds all processes, and the name of the lock.
pub(crate) const CLUSTER: &str = "portcullis-cluster";
/// All files, state and logs; pins of the namespaces in `ns`.
pub(crate) const ROOT: &str = "/var/lib/portcullis-cluster";
/// The machine's end of its link to the cluster.
pub(crate) const LINK: &str = "pcl0";
/// The part of [`CLUSTER`] that the control plane is in.
pub(crate) const CONTROL: &str = "control";

/// The control plane's address on the network that joins the nodes; routers of the nodes too.
pub(crate) const CONTROL_4: &str = "10.78.0.1";
pub(crate) const CONTROL_6: &str = "fd78::1";
/// The two ends of the machine's link: here, and in the control plane's namespace.
pub(crate) const LINK_4: [&str; 2] = ["10.78.9.1", "10.78.9.2"];
pub(crate) const LINK_6: [&str; 2] = ["fd78:0:0:9::1", "fd78:0:0:9::2"];
pub(crate) const NODES: [&str; 2] = ["10.78.0.0/24", "fd78::/64"];
pub(crate) const PODS: [&str; 2] = ["10.61.0.0/16", "fd61::/48"];
pub(crate) const SERVICES: [&str; 2] = ["10.101.0.0/16", "fd11::/112"];
/// The first addresses of [`SERVICES`], which the API server takes for itself.
pub(crate) const API_SERVICE: [&str; 2] = ["10.101.0.1", "fd11::1"];
/// As in tests/cluster/coredns/objects.yaml.
pub(crate) const DNS_SERVICE: &str = "10.101.0.10";
pub(crate) const MOST_NODES: u8 = 9;
/// The two ends of a guest's wire: in the control plane's namespace, and in the guest.
pub(crate) const WIRE_6: [&str; 2] = ["fe80::1", "fe80::2"];

pub(crate) fn root() -> &'static Path {
    Path::new(ROOT)
}

/// Credentials of the cluster's administrator.
pub(crate) fn admin() -> PathBuf {
    root().join("admin.conf")
}

/// Is there as long as the cluster that `up` finished is.
pub(crate) fn finished() -> PathBuf {
    root().join("finished")
}

/// Says how kube-proxy translates Services.
pub(crate) fn proxy() -> PathBuf {
    root().join("proxy")
}

/// Says which family comes first.
pub(crate) fn family() -> PathBuf {
    root().join("family")
}

pub(crate) fn logs() -> PathBuf {
    root().join("log")
}

/// The folder where network namespaces are pinned.
pub(crate) fn pins() -> PathBuf {
    root().join("ns")
}

pub(crate) fn control_network() -> PathBuf {
    pins().join("control-net")
}

/// A node: n1, n2, ...
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Node(pub(crate) u8);

impl Node {
    /// The first `count` nodes.
    pub(crate) fn first(count: u8) -> Vec<Self> {
        (1..=count).map(Self).collect()
    }

    /// The nodes that are there, even half made.
    pub(crate) fn present() -> Vec<Self> {
        (1..=MOST_NODES)
            .map(Self)
            .filter(|node| node.folder().exists())
            .collect()
    }

    pub(crate) fn name(self) -> String {
        format!("n{}", self.0)
    }

    /// Its part of [`CLUSTER`], which the kubelet works in.
    pub(crate) fn cgroup(self) -> String {
        format!("{CLUSTER}/{}", self.name())
    }

    pub(crate) fn address_4(self) -> String {
        format!("10.78.0.{}", 10 + self.0)
    }

    pub(crate) fn address_6(self) -> String {
        format!("fd78::{}", 10 + self.0)
    }

    /// The addresses of its pods, one prefix for each family.
    pub(crate) fn pods(self) -> [String; 2] {
        [
            format!("10.61.{}.0/24", self.0),
            format!("fd61:0:0:{}::/64", self.0),
        ]
    }

    /// Its files.
    pub(crate) fn folder(self) -> PathBuf {
        root().join("nodes").join(self.name())
    }

    pub(crate) fn network(self) -> PathBuf {
        pins().join(format!("{}-net", self.name()))
    }

    /// The kernel that it has to itself, if it is a guest.
    pub(crate) fn kernel(self) -> Option<String> {
        fs::read_to_string(self.kernel_note()).ok()
    }

    /// Says which; only guests have it.
    pub(crate) fn kernel_note(self) -> PathBuf {
        self.folder().join("kernel")
    }

    /// The card by which a guest takes commands.
    pub(crate) fn wire(self) -> String {
        format!("wire{}", self.0)
    }
}
