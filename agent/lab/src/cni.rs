//! The CNI's result cache, as libcni writes it under `/var/lib/cni/results`: one file for each pod interface.
//!
//! Written before the pod's interface is switched on, because on a real node the file is there before the pod's containers start. The agent learns
//! from it which pod is behind an interface before the API server says so.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use crate::names;
use crate::spec::LabPod;

const NETWORK: &str = "aws-cni";
const INTERFACE: &str = "eth0";

/// Facts of one attachment that are not in the pod's spec.
#[derive(Debug, Clone)]
pub struct Attachment<'a> {
    /// Path of the pod's network namespace.
    pub netns: &'a Path,
    /// Name of the host end.
    pub host_interface: &'a str,
    /// Hardware address of the host end.
    pub host_mac: [u8; 6],
    /// Hardware address of the pod's end.
    pub pod_mac: [u8; 6],
    /// The pod's cgroup, relative to the hierarchy's root.
    pub cgroup: Option<String>,
}

/// Where the file of `pod` lies in `directory`: `NETWORK-CONTAINER-INTERFACE`.
#[must_use]
pub fn result_path(directory: &Path, pod: &LabPod) -> PathBuf {
    directory.join(format!(
        "{NETWORK}-{}-{INTERFACE}",
        names::container_id(&pod.uid)
    ))
}

/// Writes the file of `pod` by rename.
pub fn write_result(directory: &Path, pod: &LabPod, attachment: &Attachment<'_>) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    let container = names::container_id(&pod.uid);
    let ips: Vec<_> = pod
        .addresses
        .iter()
        .map(|address| {
            let (width, gateway) = if address.is_ipv4() {
                (32, "169.254.1.1")
            } else {
                (128, "fe80::1")
            };
            json!({ "interface": 1, "address": format!("{address}/{width}"), "gateway": gateway })
        })
        .collect();
    // `config` is the base64 of the network's configuration; nobody reads it here, so it is the empty list's.
    let body = json!({
        "kind": "cniCacheV1",
        "containerId": container,
        "config": "e30=",
        "ifName": INTERFACE,
        "networkName": NETWORK,
        "netns": attachment.netns,
        "cniArgs": [
            ["IgnoreUnknown", "1"],
            ["K8S_POD_NAMESPACE", pod.namespace],
            ["K8S_POD_NAME", pod.name],
            ["K8S_POD_INFRA_CONTAINER_ID", container],
            ["K8S_POD_UID", pod.uid],
        ],
        "capabilityArgs": { "cgroupPath": attachment.cgroup, "io.kubernetes.cri.pod-annotations": {} },
        "result": {
            "cniVersion": "1.0.0",
            "interfaces": [
                { "name": attachment.host_interface, "mac": colons(attachment.host_mac) },
                { "name": INTERFACE, "mac": colons(attachment.pod_mac), "sandbox": attachment.netns },
            ],
            "ips": ips,
            "routes": [],
            "dns": {},
        },
    });
    let path = result_path(directory, pod);
    // The dot keeps a half-written file out of whoever lists results by name.
    let draft = directory.join(format!(".{container}"));
    fs::write(&draft, serde_json::to_vec(&body)?)
        .with_context(|| format!("writing {}", draft.display()))?;
    fs::rename(&draft, &path).with_context(|| format!("writing {}", path.display()))
}

/// Removes the file of `pod`, if it is there.
pub fn remove_result(directory: &Path, pod: &LabPod) {
    // Absent is what is wanted.
    let _ = fs::remove_file(result_path(directory, pod));
}

fn colons(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_names_the_pod_its_interface_and_its_addresses() {
        let directory =
            std::env::temp_dir().join(format!("portcullis-lab-cni-{}", std::process::id()));
        let pod = LabPod {
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u1".into(),
            addresses: vec!["10.0.1.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            ports: vec![],
            host_network: false,
        };
        let attachment = Attachment {
            netns: Path::new("/run/x"),
            host_interface: "eni0",
            host_mac: [2, 0, 0, 0, 0, 1],
            pod_mac: [2, 0, 0, 0, 0, 2],
            cgroup: Some("/kubepods/podu1".into()),
        };
        write_result(&directory, &pod, &attachment).unwrap();
        let text = fs::read_to_string(result_path(&directory, &pod)).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["result"]["interfaces"][0]["name"], "eni0");
        assert_eq!(value["result"]["ips"][1]["address"], "fd00::5/128");
        assert_eq!(value["cniArgs"][4][1], "u1");
        assert_eq!(
            fs::read_dir(&directory).unwrap().count(),
            1,
            "no draft is left"
        );
        remove_result(&directory, &pod);
        fs::remove_dir(&directory).unwrap();
    }
}
