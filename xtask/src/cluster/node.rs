//! A node: containerd with images, kubelet, kube-proxy; their settings.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::daemon::{Daemon, write};
use super::images::PAUSE;
use super::load;
use super::names::{DNS_SERVICE, Node, PODS};
use super::pki::{certificate, config, key};
use super::place::Place;
use super::programs::Programs;
use super::up::{Family, Proxy};

/// A guest is slow.
const LIMIT: Duration = Duration::from_mins(2);
/// Settings, in the node's folder.
const RUNTIME: &str = "containerd.toml";
const KUBELET: &str = "kubelet.json";
/// Where containerd is told to listen: its default.
pub(crate) const SOCKET: &str = "/run/containerd/containerd.sock";

/// What nodes have in common.
pub(crate) struct Fittings<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) path: &'a OsStr,
    pub(crate) images: &'a [PathBuf],
    pub(crate) proxy: Proxy,
    pub(crate) family: Family,
}

/// Writes the settings of all that runs on a node.
pub(crate) fn settle(node: Node, programs: &Programs) -> Result<()> {
    let folder = node.folder();
    for (name, content) in [
        (RUNTIME, runtime(node, programs)?),
        ("net.d/10-ptp.conflist", network(node, &folder)),
        (KUBELET, kubelet(node, &folder)),
        (
            "resolv.conf",
            "# The cluster has no way out, and nobody to ask.\n".to_owned(),
        ),
    ] {
        write(&folder.join(name), content)?;
    }
    Ok(())
}

/// Starts containerd; the API server need not be there.
pub(crate) fn start_runtime(node: Node, place: &Place, fittings: &Fittings<'_>) -> Result<()> {
    let args = [option("config", node.folder().join(RUNTIME))];
    start(node, "containerd", &args, place, fittings)?.wait_until(
        &format!("containerd does not answer on {}", node.name()),
        LIMIT,
        || load::answers(place, fittings.path, Path::new(SOCKET)),
    )
}

/// Gives containerd the images that every node has.
pub(crate) fn load_images(place: &Place, fittings: &Fittings<'_>) -> Result<()> {
    load::import(place, fittings.path, Path::new(SOCKET), fittings.images)
}

/// Starts kubelet and kube-proxy, which wait for the API server by themselves.
pub(crate) fn start_clients(node: Node, place: &Place, fittings: &Fittings<'_>) -> Result<()> {
    let name = node.name();
    let folder = node.folder();
    let args = [
        option("config", folder.join(KUBELET)),
        option("kubeconfig", config(&name)),
        format!("--hostname-override={name}"),
        format!(
            "--node-ip={}",
            fittings
                .family
                .ordered([node.address_4(), node.address_6()])
                .join(",")
        ),
        option("cert-dir", folder.join("pki")),
    ];
    start(node, "kubelet", &args, place, fittings)?;
    let args = [
        option("kubeconfig", config("kube-proxy")),
        format!("--proxy-mode={}", fittings.proxy.name()),
        format!("--hostname-override={name}"),
        format!("--cluster-cidr={}", fittings.family.ordered(PODS).join(",")),
        // The number of tracked connections is the machine's, not the node's.
        "--conntrack-max-per-core=0".to_owned(),
    ];
    start(node, "kube-proxy", &args, place, fittings).map(|_| ())
}

fn start(
    node: Node,
    program: &str,
    args: &[String],
    place: &Place,
    fittings: &Fittings<'_>,
) -> Result<Daemon> {
    let log = format!("{}-{program}", node.name());
    let file = fittings.programs.find(program)?;
    Daemon::start(&log, place, &file, args, fittings.path)
}

/// Where containerd keeps images and containers.
pub(crate) fn store(node: Node) -> PathBuf {
    node.folder().join("containerd")
}

fn option(name: &str, path: impl AsRef<Path>) -> String {
    format!("--{name}={}", path.as_ref().display())
}

fn runtime(node: Node, programs: &Programs) -> Result<String> {
    let (folder, store) = (node.folder(), store(node));
    let plugins = programs.plugins()?;
    let runc = programs.find("runc")?;
    let (folder, store) = (folder.display(), store.display());
    let (plugins, runc) = (plugins.display(), runc.display());
    Ok(format!(
        r#"version = 3
root = "{store}"
state = "/run/containerd"
[grpc]
  address = "{SOCKET}"
[plugins.'io.containerd.internal.v1.opt']
  path = "{folder}/opt"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
  # Lowering a score of the out-of-memory killer needs CAP_SYS_RESOURCE, which root may lack.
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = "{runc}"
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["{plugins}"]
  conf_dir = "{folder}/net.d"
"#
    ))
}

/// A pair of interfaces and a host route for each pod, as the VPC CNI has it.
fn network(node: Node, folder: &Path) -> String {
    let [pods_4, pods_6] = node.pods();
    let config = json!({
        "cniVersion": "1.0.0",
        "name": "cluster",
        "plugins": [
            {"type": "ptp", "ipMasq": false, "ipam": {
                "type": "host-local",
                "dataDir": folder.join("ipam"),
                "ranges": [[{"subnet": pods_4}], [{"subnet": pods_6}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            }},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    format!("{config:#}\n")
}

fn kubelet(node: Node, folder: &Path) -> String {
    let serving = format!("{}-serving", node.name());
    // A guest has all cgroups to itself.
    let cgroup = match node.kernel() {
        Some(_) => "/".to_owned(),
        None => format!("/{}", node.cgroup()),
    };
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": certificate("ca")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": certificate(&serving),
        "tlsPrivateKeyFile": key(&serving),
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "failCgroupV1": false,
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "resolvConf": folder.join("resolv.conf"),
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "failSwapOn": false,
        // The disk is the machine's: a full one is no reason to throw pods out.
        "evictionHard": {},
        "localStorageCapacityIsolation": false,
    });
    format!("{config:#}\n")
}
