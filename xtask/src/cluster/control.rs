//! The control plane: etcd, API server, controller manager and scheduler, in one network namespace.

use std::ffi::OsStr;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;

use super::daemon::Daemon;
use super::names::{CONTROL_4, CONTROL_6, PODS, SERVICES, root};
use super::pki::{certificate, config, key};
use super::place::Place;
use super::programs::Programs;
use super::run;
use super::up::Family;

const LIMIT: Duration = Duration::from_mins(1);
const ETCD: &str = "http://127.0.0.1:2379";

pub(crate) fn start_etcd(place: &Place, programs: &Programs, path: &OsStr) -> Result<()> {
    let args = [
        format!("--data-dir={}", root().join("etcd").display()),
        format!("--listen-client-urls={ETCD}"),
        format!("--advertise-client-urls={ETCD}"),
        // The cluster lives as long as the machine is up: nothing has to survive a loss of power.
        "--unsafe-no-fsync".to_owned(),
    ];
    Daemon::start("etcd", place, &programs.find("etcd")?, args, path)?.wait_until(
        "etcd does not listen",
        LIMIT,
        || listens(place, 2379),
    )
}

pub(crate) fn start_api(
    place: &Place,
    programs: &Programs,
    path: &OsStr,
    family: Family,
) -> Result<()> {
    // Its own Service is of the first family, and so has to be what it leads to.
    let [address, _] = family.ordered([CONTROL_4, CONTROL_6]);
    let file = |option: &str, path: std::path::PathBuf| format!("--{option}={}", path.display());
    let args = [
        format!("--etcd-servers={ETCD}"),
        "--secure-port=6443".to_owned(),
        format!("--advertise-address={address}"),
        file("cert-dir", root().join("pki")),
        file("tls-cert-file", certificate("apiserver")),
        file("tls-private-key-file", key("apiserver")),
        file("client-ca-file", certificate("ca")),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        format!(
            "--service-cluster-ip-range={}",
            family.ordered(SERVICES).join(",")
        ),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        file("service-account-key-file", key("service-account")),
        file("service-account-signing-key-file", key("service-account")),
        // Nodes have no names that anybody could look up.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        file("kubelet-certificate-authority", certificate("ca")),
        file(
            "kubelet-client-certificate",
            certificate("apiserver-to-kubelet"),
        ),
        file("kubelet-client-key", key("apiserver-to-kubelet")),
    ];
    let kubectl = programs.find("kubectl")?;
    Daemon::start(
        "kube-apiserver",
        place,
        &programs.find("kube-apiserver")?,
        args,
        path,
    )?
    .wait_until("the API server is not ready", LIMIT, || {
        run::client(&mut Command::new(&kubectl))
            .args(["get", "--raw", "/readyz"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

/// Starts the others and waits for neither: nodes can come up meanwhile.
pub(crate) fn start_controllers(
    place: &Place,
    programs: &Programs,
    path: &OsStr,
    family: Family,
) -> Result<()> {
    let common = |name: &str| {
        let config = config(name);
        vec![
            format!("--kubeconfig={}", config.display()),
            format!("--authentication-kubeconfig={}", config.display()),
            format!("--authorization-kubeconfig={}", config.display()),
            format!("--cert-dir={}", root().join(name).display()),
            "--bind-address=127.0.0.1".to_owned(),
            "--leader-elect=false".to_owned(),
        ]
    };
    let name = "kube-controller-manager";
    let mut args = common(name);
    args.extend([
        "--use-service-account-credentials=true".to_owned(),
        format!(
            "--service-account-private-key-file={}",
            key("service-account").display()
        ),
        format!("--root-ca-file={}", certificate("ca").display()),
        format!(
            "--cluster-signing-cert-file={}",
            certificate("ca").display()
        ),
        format!("--cluster-signing-key-file={}", key("ca").display()),
        // It starts with more requests than it lets itself send in four seconds.
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
        format!("--cluster-cidr={}", family.ordered(PODS).join(",")),
        format!(
            "--service-cluster-ip-range={}",
            family.ordered(SERVICES).join(",")
        ),
    ]);
    Daemon::start(name, place, &programs.find(name)?, args, path)?;
    let name = "kube-scheduler";
    Daemon::start(name, place, &programs.find(name)?, common(name), path)?;
    Ok(())
}

/// Whether somebody listens on a port of the place, by the kernel's own table.
fn listens(place: &Place, port: u16) -> bool {
    let output = place.command("cat").args(["/proc/self/net/tcp"]).output();
    let wanted = format!(":{port:04X} 00000000:0000 0A");
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(&wanted))
        && fs::exists(root().join("etcd")).unwrap_or(false)
}
