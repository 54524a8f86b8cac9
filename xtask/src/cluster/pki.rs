//! Certificates and kubeconfigs: one authority for all, made anew with each cluster.
//!
//! Everybody is who his certificate says, and gets what RBAC and the node authorizer give to that name.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use serde_json::json;

use super::daemon::{create, write};
use super::names::{API_SERVICE, CONTROL_4, CONTROL_6, Node, admin, root};
use super::network::execute;

/// A person or a program, as its certificate names it.
struct Subject<'a> {
    file: &'a str,
    group: &'a str,
    name: &'a str,
    /// What a server is reached by; empty for a client.
    reached_by: String,
}

/// The authority, the key of service accounts, the API server and the control plane's clients.
pub(crate) fn make_control() -> Result<()> {
    create(&folder())?;
    restrict()?;
    authority()?;
    // In the older form: the API server does not find the public half in a PKCS #8 file.
    execute(
        Command::new("openssl")
            .args([
                "ecparam",
                "-name",
                "prime256v1",
                "-genkey",
                "-noout",
                "-out",
            ])
            .arg(key("service-account")),
    )?;
    let [service_4, service_6] = API_SERVICE;
    certify(&Subject {
        file: "apiserver",
        group: "portcullis",
        name: "kube-apiserver",
        reached_by: format!(
            "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,\
             DNS:kubernetes.default.svc.cluster.local,DNS:localhost,\
             IP:{CONTROL_4},IP:{CONTROL_6},IP:{service_4},IP:{service_6},IP:127.0.0.1"
        ),
    })?;
    client("apiserver-to-kubelet", "system:masters", "kube-apiserver")?;
    client("admin", "system:masters", "admin")?;
    write(&admin(), kubeconfig("admin"))?;
    for program in ["kube-controller-manager", "kube-scheduler", "kube-proxy"] {
        client(program, "portcullis", &format!("system:{program}"))?;
        write(&config(program), kubeconfig(program))?;
    }
    Ok(())
}

/// A kubelet as a client of the API server, and as a server for it.
pub(crate) fn make_node(node: Node) -> Result<()> {
    let name = node.name();
    client(&name, "system:nodes", &format!("system:node:{name}"))?;
    write(&config(&name), kubeconfig(&name))?;
    certify(&Subject {
        file: &format!("{name}-serving"),
        group: "system:nodes",
        name: &format!("system:node:{name}"),
        reached_by: format!("DNS:{name},IP:{},IP:{}", node.address_4(), node.address_6()),
    })
}

pub(crate) fn certificate(file: &str) -> PathBuf {
    folder().join(format!("{file}.crt"))
}

pub(crate) fn key(file: &str) -> PathBuf {
    folder().join(format!("{file}.key"))
}

pub(crate) fn config(file: &str) -> PathBuf {
    folder().join(format!("{file}.conf"))
}

fn folder() -> PathBuf {
    root().join("pki")
}

fn restrict() -> Result<()> {
    execute(Command::new("chmod").arg("700").arg(folder()))
}

fn authority() -> Result<()> {
    let settings = "[req]\ndistinguished_name = name\nx509_extensions = authority\n[name]\n[authority]\n\
                    basicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign, cRLSign\n\
                    subjectKeyIdentifier = hash\n";
    write(&folder().join("ca.cnf"), settings)?;
    execute(request("ca").args(["-subj", "/CN=portcullis-cluster"]))
}

fn client(file: &str, group: &str, name: &str) -> Result<()> {
    certify(&Subject {
        file,
        group,
        name,
        reached_by: String::new(),
    })
}

fn certify(subject: &Subject<'_>) -> Result<()> {
    let Subject {
        file,
        group,
        name,
        reached_by,
    } = subject;
    let purpose = if reached_by.is_empty() {
        "extendedKeyUsage = clientAuth".to_owned()
    } else {
        format!("extendedKeyUsage = serverAuth\nsubjectAltName = {reached_by}")
    };
    let settings = format!(
        "[req]\ndistinguished_name = name\nx509_extensions = leaf\n[name]\n[leaf]\n\
         basicConstraints = critical, CA:FALSE\nkeyUsage = critical, digitalSignature\n\
         authorityKeyIdentifier = keyid\n{purpose}\n"
    );
    write(&folder().join(format!("{file}.cnf")), settings)?;
    execute(
        request(file)
            .arg("-CA")
            .arg(certificate("ca"))
            .arg("-CAkey")
            .arg(key("ca"))
            .args(["-subj", &format!("/O={group}/CN={name}")]),
    )
}

/// A new key, and a certificate for it under the settings of the same name.
fn request(file: &str) -> Command {
    let mut command = Command::new("openssl");
    command
        .args(["req", "-x509", "-new", "-nodes", "-sha256", "-days", "365"])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .arg("-config")
        .arg(folder().join(format!("{file}.cnf")))
        .arg("-keyout")
        .arg(key(file))
        .arg("-out")
        .arg(certificate(file));
    command
}

/// JSON, which is YAML too.
fn kubeconfig(file: &str) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "portcullis-cluster", "cluster": {
            "server": format!("https://{CONTROL_4}:6443"),
            "certificate-authority": certificate("ca"),
        }}],
        "users": [{"name": file, "user": {
            "client-certificate": certificate(file),
            "client-key": key(file),
        }}],
        "contexts": [{"name": file, "context": {"cluster": "portcullis-cluster", "user": file}}],
        "current-context": file,
    });
    format!("{config:#}\n")
}
