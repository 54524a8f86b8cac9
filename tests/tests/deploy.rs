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

fn container<'a>(daemon_set: &'a Value, name: &str) -> &'a Value {
    let containers = daemon_set["spec"]["template"]["spec"]["containers"].as_array();
    let mut containers = containers.expect("it has containers").iter();
    let found = containers.find(|container| container["name"] == name);
    found.unwrap_or_else(|| panic!("no container {name}"))
}

/// The first one, as components count on.
fn agent(daemon_set: &Value) -> &Value {
    let first = &daemon_set["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(first["name"], "agent");
    first
}

/// Kubernetes' objects of a component, and what it changes.
fn component(name: &str) -> (Vec<Value>, Value) {
    let kustomization = documents(&format!("components/{name}/kustomization.yaml"));
    let [kustomization] = kustomization.as_slice() else {
        panic!("one kustomization");
    };
    assert_eq!(kustomization["kind"], "Component");
    let files = kustomization["resources"].as_array().into_iter().flatten();
    let files = files.map(|file| file.as_str().expect("a name"));
    let objects = files.flat_map(|file| documents(&format!("components/{name}/{file}")));
    (objects.collect(), kustomization["patches"].clone())
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
    assert_eq!(
        writable,
        [
            "/sys/fs/bpf",
            "/run/portcullis",
            "/run/portcullis-responder"
        ]
    );
    for host in ["hostPID", "hostIPC"] {
        assert_eq!(pod[host], Value::Null);
    }
    assert_eq!(pod["initContainers"], Value::Null);
}

#[test]
fn the_responder_has_a_socket_and_nothing_else() {
    let daemon_set = of_kind(&documents("portcullis.yaml"), "DaemonSet");
    let pod = &daemon_set["spec"]["template"]["spec"];
    let responder = container(&daemon_set, "responder");
    let expected = json!({
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    assert_eq!(responder["securityContext"], expected);
    let mount = json!([{"name": "responder", "mountPath": "/run/portcullis-responder"}]);
    assert_eq!(responder["volumeMounts"], mount);
    for none in ["ports", "envFrom", "volumeDevices", "lifecycle"] {
        assert_eq!(responder[none], Value::Null, "{none}");
    }
    let volumes = pod["volumes"].as_array().expect("it has volumes");
    let volume = |name: &str| volumes.iter().find(|volume| volume["name"] == name);
    assert_eq!(
        volume("responder").expect("it is there")["emptyDir"]["medium"],
        "Memory"
    );

    // The agent is told of it, by the same socket and uid.
    let words = |container: &Value| container["args"].as_array().cloned().expect("it has words");
    let socket = "=/run/portcullis-responder/agent.sock";
    assert!(words(agent(&daemon_set)).contains(&json!(format!("--responder{socket}"))));
    assert!(words(agent(&daemon_set)).contains(&json!("--responder-uid=65532")));
    assert!(words(responder).contains(&json!(format!("--socket{socket}"))));
}

#[test]
fn the_agent_alone_has_a_token_of_the_api_server() {
    let daemon_set = of_kind(&documents("portcullis.yaml"), "DaemonSet");
    let pod = &daemon_set["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    let mut holders = Vec::new();
    for container in pod["containers"].as_array().expect("it has containers") {
        let mounts = container["volumeMounts"].as_array().expect("it has mounts");
        let token = mounts.iter().find(|mount| mount["name"] == "token");
        if let Some(mount) = token {
            let place = "/var/run/secrets/kubernetes.io/serviceaccount";
            assert_eq!(mount["mountPath"], place);
            assert_eq!(mount["readOnly"], true);
            holders.push(container["name"].clone());
        }
    }
    assert_eq!(holders, ["agent"]);
    let volumes = pod["volumes"].as_array().expect("it has volumes");
    let projected: Vec<&Value> = volumes
        .iter()
        .filter(|volume| volume.to_string().contains("serviceAccountToken"))
        .collect();
    let [token] = projected.as_slice() else {
        panic!("one volume has a token");
    };
    assert_eq!(token["name"], "token");
    // For the API server: an audience would be somebody else's.
    assert_eq!(
        token["projected"]["sources"][0]["serviceAccountToken"]["audience"],
        Value::Null
    );
}

/// As it is applied by its address, Portcullis can neither assume a role by itself nor make tokens, and nothing in it is granted broadly.
#[test]
fn i8_the_default_manifest_has_no_grant_to_assume_roles_and_no_broad_right() {
    let manifest = documents("portcullis.yaml");
    for document in &manifest {
        let text = document.to_string();
        let grants = [
            "AssumeRole",
            "assume-role",
            "serviceaccounts/token",
            "tokenrequest",
            "eks.amazonaws.com/role-arn",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_ROLE_ARN",
            "secretKeyRef",
            "--metadata-allow",
        ];
        for grant in grants {
            assert!(!text.contains(grant), "{grant} in {}", document["kind"]);
        }
    }
    for rule in of_kind(&manifest, "ClusterRole")["rules"]
        .as_array()
        .expect("it has rules")
    {
        let text = rule.to_string();
        for broad in ["*", "secrets", "impersonate", "escalate", "bind"] {
            assert!(!text.contains(&format!("\"{broad}\"")), "{text}");
        }
    }
}

#[test]
fn asking_for_tokens_is_a_right_that_comes_with_its_fence() {
    let (objects, patches) = component("tokenrequest");
    assert_eq!(objects.len(), 4);
    let right =
        json!([{"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]}]);
    assert_eq!(of_kind(&objects, "ClusterRole")["rules"], right);
    assert!(patches.to_string().contains("--source=tokenrequest"));

    let policy = of_kind(&objects, "ValidatingAdmissionPolicy");
    let spec = &policy["spec"];
    assert_eq!(spec["failurePolicy"], "Fail");
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["serviceaccounts/token"]}]);
    assert_eq!(spec["matchConstraints"], json!({"resourceRules": rules}));
    let binding = of_kind(&objects, "ValidatingAdmissionPolicyBinding");
    assert_eq!(binding["spec"]["policyName"], policy["metadata"]["name"]);
    assert_eq!(binding["spec"]["validationActions"], json!(["Deny"]));
    assert_eq!(binding["spec"]["matchResources"], Value::Null);

    // The account that it fences is the one that has the right and that the agent runs as.
    let rights = of_kind(&objects, "ClusterRoleBinding");
    let manifest = documents("portcullis.yaml");
    let account = of_kind(&manifest, "ServiceAccount")["metadata"].clone();
    assert_eq!(rights["subjects"][0]["name"], account["name"]);
    let [Value::String(namespace), Value::String(name)] = [&account["namespace"], &account["name"]]
    else {
        panic!("{account}");
    };
    let fenced = format!("request.userInfo.username == 'system:serviceaccount:{namespace}:{name}'");
    assert_eq!(
        spec["matchConditions"].as_array().map(Vec::len),
        Some(1),
        "every condition lets something past the fence"
    );
    assert_eq!(spec["matchConditions"][0]["expression"], fenced);
}

#[test]
fn the_token_reader_reads_the_pods_volumes_and_has_one_capability() {
    let patch = documents("components/projected/token-reader.yaml").remove(0);
    assert_eq!(agent(&patch)["volumeMounts"][0]["name"], "token-reader");
    let reader = container(&patch, "token-reader");
    let expected = json!({
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "runAsUser": 0,
        "runAsGroup": 0,
        "capabilities": {"drop": ["ALL"], "add": ["DAC_READ_SEARCH"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    assert_eq!(reader["securityContext"], expected);
    let mounts = json!([
        {"name": "kubelet-pods", "mountPath": "/var/lib/kubelet/pods", "readOnly": true, "mountPropagation": "HostToContainer"},
        {"name": "token-reader", "mountPath": "/run/portcullis-token-reader"},
    ]);
    assert_eq!(reader["volumeMounts"], mounts);
    let image = agent(&of_kind(&documents("portcullis.yaml"), "DaemonSet"))["image"].clone();
    assert_eq!(reader["image"], image);
    let (_, patches) = component("projected");
    let socket = "=/run/portcullis-token-reader/socket";
    assert!(
        patches
            .to_string()
            .contains(&format!("--token-reader{socket}"))
    );
    let words = reader["args"].as_array().expect("it has words");
    assert!(words.contains(&json!(format!("--socket{socket}"))));
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
    for name in ["agent", "responder"] {
        assert_eq!(container(&manifest, name)["image"], image, "{name}");
    }
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
