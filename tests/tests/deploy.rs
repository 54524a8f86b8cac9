//! What `deploy/` asks of a cluster: the agent's rights and capabilities to the letter, so that nothing is added unseen, and names that fit together.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(path)
}

fn documents(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(deploy(path)).expect("the file is there");
    serde_saphyr::from_multiple(&text).expect("the file is YAML")
}

fn of_kind(documents: &[Value], kind: &str) -> Value {
    let all: Vec<&Value> = documents
        .iter()
        .filter(|document| document["kind"] == kind)
        .collect();
    assert_eq!(all.len(), 1, "one {kind}");
    all[0].clone()
}

fn agent(daemon_set: &Value) -> &Value {
    let containers = &daemon_set["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers.as_array().map(Vec::len), Some(1));
    &containers[0]
}

#[test]
fn the_manifest_that_is_applied_by_its_address_is_the_one_that_overlays_build_on() {
    // kubectl reads no file above the folder of a kustomization, and raw files on the web are no links.
    let [whole, base] = ["portcullis.yaml", "base/portcullis.yaml"].map(|path| {
        let path = deploy(path);
        assert!(!path.is_symlink(), "{} is a link", path.display());
        fs::read_to_string(path).expect("the file is there")
    });
    assert!(whole == base, "copy deploy/portcullis.yaml to deploy/base/");
}

#[test]
fn the_agent_has_these_rights_and_no_others() {
    let manifest = documents("portcullis.yaml");
    assert_eq!(manifest.len(), 5);
    let read = json!(["get", "list", "watch"]);
    assert_eq!(
        of_kind(&manifest, "ClusterRole")["rules"],
        json!([
            {"apiGroups": [""], "resources": ["pods", "namespaces", "nodes", "services", "serviceaccounts"], "verbs": read},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
            {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": read},
            {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
        ])
    );
    let binding = of_kind(&manifest, "ClusterRoleBinding");
    let account = of_kind(&manifest, "ServiceAccount");
    assert_eq!(binding["subjects"][0]["name"], account["metadata"]["name"]);
    assert_eq!(binding["roleRef"]["name"], "portcullis");
}

#[test]
fn the_agent_has_two_capabilities_and_writes_to_two_places() {
    let daemon_set = of_kind(&documents("portcullis.yaml"), "DaemonSet");
    let pod = &daemon_set["spec"]["template"]["spec"];
    let agent = agent(&daemon_set);
    let expected = json!({
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "runAsUser": 0,
        "runAsGroup": 0,
        "capabilities": {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    assert_eq!(agent["securityContext"], expected);
    let mounts = agent["volumeMounts"].as_array().expect("it has mounts");
    let writable: Vec<&Value> = mounts
        .iter()
        .filter(|mount| mount["readOnly"] != true)
        .map(|mount| &mount["mountPath"])
        .collect();
    assert_eq!(writable, ["/sys/fs/bpf", "/run/portcullis"]);
    for host in ["hostPID", "hostIPC"] {
        assert_eq!(pod[host], Value::Null);
    }
    assert_eq!(pod["initContainers"], Value::Null);
}

#[test]
fn nothing_takes_protection_away_when_an_agent_ends() {
    for path in [
        "portcullis.yaml",
        "overlays/mount-bpffs/init-container.yaml",
    ] {
        let text = fs::read_to_string(deploy(path)).expect("the file is there");
        let said = text.lines().filter(|line| !line.trim().starts_with('#'));
        for line in said {
            assert!(
                !line.contains("preStop") && !line.contains("uninstall"),
                "{line}"
            );
        }
    }
}

#[test]
fn every_manifest_names_the_image_that_is_built() {
    let image = format!(
        "ghcr.io/portcullis-dev/portcullis:{}",
        env!("CARGO_PKG_VERSION")
    );
    let manifest = of_kind(&documents("portcullis.yaml"), "DaemonSet");
    assert_eq!(agent(&manifest)["image"], image);
    let overlay = documents("overlays/mount-bpffs/init-container.yaml");
    let init = &overlay[0]["spec"]["template"]["spec"]["initContainers"][0];
    assert_eq!(init["image"], image);
    let builder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/src/image.rs");
    let builder = fs::read_to_string(builder).expect("the file is there");
    let (repository, _) = image.rsplit_once(':').expect("it has a tag");
    assert!(builder.contains(&format!("\"{repository}\"")));
}

#[test]
fn uninstalling_asks_for_less_than_the_agent_and_names_the_same_image() {
    let removal = of_kind(&documents("uninstall.yaml"), "DaemonSet");
    let installed = of_kind(&documents("portcullis.yaml"), "DaemonSet");
    let pod = &removal["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    for container in [&pod["initContainers"][0], &pod["containers"][0]] {
        assert_eq!(container["image"], agent(&installed)["image"]);
        assert_eq!(container["args"][0], "uninstall");
        assert_eq!(container["args"][1], "--yes");
        let capabilities = &container["securityContext"]["capabilities"];
        assert_eq!(
            *capabilities,
            json!({"drop": ["ALL"], "add": ["NET_ADMIN"]})
        );
    }
}

#[test]
fn people_who_look_have_what_the_plugin_asks_for_and_no_more() {
    let roles = documents("roles.yaml");
    let rules = |name: &str| {
        let role = roles.iter().find(|role| role["metadata"]["name"] == name);
        role.expect("the role is there")["rules"].clone()
    };
    let read = json!(["get", "list", "watch"]);
    let viewer = json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": read},
        {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create", "get"]},
        {"apiGroups": ["apps"], "resources": ["daemonsets"], "verbs": read},
    ]);
    assert_eq!(rules("portcullis-viewer"), viewer);
    // Operators may do all of that too.
    let operator = rules("portcullis-operator");
    for rule in viewer.as_array().expect("a list") {
        let covers = |other: &&Value| {
            let list = |rule: &Value, field: &str| rule[field].as_array().cloned().expect("a list");
            other["resources"] == rule["resources"]
                && list(rule, "verbs")
                    .iter()
                    .all(|verb| list(other, "verbs").contains(verb))
        };
        let all = operator.as_array().expect("a list");
        assert!(all.iter().any(|other| covers(&other)), "{rule}");
    }
    for rule in operator.as_array().expect("a list") {
        let text = rule.to_string();
        assert!(!text.contains('*') && !text.contains("secrets"), "{text}");
    }
}
