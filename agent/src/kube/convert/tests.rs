use std::net::IpAddr;

use portcullis_imds::role::Keys;
use portcullis_policy::model::{NamedPort, Protocol};

use super::*;
use crate::kube::{HostPort, Pod, Service, ServiceAccount, ServicePort, Way};

fn value(yaml: &str) -> Value {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(yaml, options)
        .unwrap_or_else(|error| panic!("{error}\n{yaml}"))
}

fn entry(kind: Kind, yaml: &str) -> Entry {
    let value = value(yaml);
    convert(identify(kind, &value).unwrap(), &value, &Keep::nothing())
}

fn problems(entry: &Entry) -> Vec<String> {
    entry.problems.iter().map(ToString::to_string).collect()
}

fn pod(yaml: &str) -> (Option<Pod>, Vec<String>) {
    let entry = entry(
        Kind::Pod,
        &format!("metadata: {{name: web, namespace: shop, uid: u1}}\n{yaml}"),
    );
    let problems = problems(&entry);
    match entry.object {
        Some(Object::Pod(pod)) => (Some(pod), problems),
        None => (None, problems),
        other => panic!("{other:?}"),
    }
}

fn good(yaml: &str) -> Pod {
    let (pod, problems) = pod(yaml);
    assert_eq!(problems, [] as [&str; 0], "{yaml}");
    pod.unwrap()
}

const NOWHERE: [IpAddr; 0] = [];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn objects_need_a_name() {
    for (yaml, expected) in [
        ("[]", ": expected an object, found a list"),
        ("{}", "metadata: required, but missing"),
        ("{metadata: {}}", "metadata.name: required, but missing"),
        (
            "{metadata: {generateName: x-}}",
            "metadata.name: required, but missing",
        ),
        (
            "{metadata: {name: 5}}",
            "metadata.name: expected a string, found 5",
        ),
        (
            "{metadata: {name: a, namespace: {}}}",
            "metadata.namespace: expected a string, found an object",
        ),
    ] {
        assert_eq!(
            identify(Kind::Pod, &value(yaml)).unwrap_err().to_string(),
            expected,
            "{yaml}"
        );
    }
    let key = identify(
        Kind::Node,
        &value("{metadata: {name: n, namespace: ignored}}"),
    )
    .unwrap();
    assert_eq!(key.to_string(), "Node n");
}

#[test]
fn a_pods_defaults_are_those_of_the_api_server() {
    let pod = good("");
    let workload = &pod.workload;
    assert_eq!(
        (workload.uid.as_str(), &*workload.service_account),
        ("u1", "default")
    );
    assert_eq!(
        (&workload.node, workload.host_network, workload.finished),
        (&None, false, false)
    );
    assert!(workload.addresses.is_empty() && workload.ports.is_empty());
    let pod =
        good("spec: {serviceAccount: old, serviceAccountName: '', nodeName: n1, hostNetwork: ~}");
    assert_eq!(
        (&*pod.workload.service_account, pod.workload.node.as_deref()),
        ("old", Some("n1"))
    );
}

#[test]
fn a_pod_owns_its_addresses_while_it_lives() {
    let both = [ip("10.0.0.5"), ip("fd00::5")];
    let status =
        "status: {phase: Running, podIP: 10.9.9.9, podIPs: [{ip: 10.0.0.5}, {ip: 'fd00::5'}]}";
    assert_eq!(good(status).workload.addresses, both);
    assert_eq!(
        good("status: {podIP: 10.0.0.5}").workload.addresses,
        both[..1]
    );
    assert_eq!(
        good("status: {podIP: 10.0.0.5, podIPs: []}")
            .workload
            .addresses,
        both[..1]
    );
    assert_eq!(
        good("status: {podIP: '', podIPs: ~}").workload.addresses,
        NOWHERE
    );
    assert_eq!(
        good(&format!("spec: {{hostNetwork: true}}\n{status}"))
            .workload
            .addresses,
        NOWHERE
    );
    for phase in ["Succeeded", "Failed"] {
        let pod = good(&status.replace("Running", phase));
        assert!(pod.workload.finished && pod.workload.addresses.is_empty() && !pod.is_endpoint());
    }
    for phase in ["Pending", "Unknown", "''"] {
        assert_eq!(
            good(&status.replace("Running", phase)).workload.addresses,
            both,
            "{phase}"
        );
    }
}

#[test]
fn a_terminating_pod_keeps_its_addresses_until_the_cni_took_them_back() {
    let terminating = |annotation: &str, deletion: &str| {
        let yaml = format!(
            "metadata: {{name: web, uid: u, {deletion} annotations: {{{annotation}}}}}\nstatus: {{podIP: 10.0.0.5}}"
        );
        match entry(Kind::Pod, &yaml).object {
            Some(Object::Pod(pod)) => (pod.workload.addresses.len(), pod.withdrawn),
            other => panic!("{other:?}"),
        }
    };
    let deletion = "deletionTimestamp: '2026-01-01T00:00:00Z',";
    assert_eq!(terminating("", deletion), (1, false));
    assert_eq!(
        terminating("cni.projectcalico.org/podIP: ''", deletion),
        (0, true)
    );
    assert_eq!(
        terminating("vpc.amazonaws.com/pod-ips: ''", deletion),
        (0, true)
    );
    assert_eq!(
        terminating("vpc.amazonaws.com/pod-ips: '10.0.0.5'", deletion),
        (1, false)
    );
    assert_eq!(terminating("vpc.amazonaws.com/pod-ips: ''", ""), (1, false));
}

#[test]
fn port_names_are_those_of_containers_and_sidecars() {
    let pod = good(
        "spec:\n  containers:\n  - ports: [{name: http, containerPort: 8080}, {containerPort: 9, hostPort: 0}]\n  \
         - ports: [{name: http, containerPort: 8080, protocol: TCP}, {name: dns, containerPort: 53, protocol: UDP, hostPort: 5353}]\n  \
         initContainers:\n  - {restartPolicy: Always, ports: [{name: side, containerPort: 1}]}\n  - ports: [{name: init, containerPort: 2}]\n",
    );
    let port = |name: &str, protocol, number| NamedPort {
        name: name.to_owned(),
        protocol,
        number,
    };
    assert_eq!(
        *pod.workload.ports,
        [
            port("dns", Protocol::UDP, 53),
            port("http", Protocol::TCP, 8080),
            port("side", Protocol::TCP, 1)
        ]
    );
    assert_eq!(
        *pod.host_ports,
        [HostPort {
            address: None,
            port: 5353,
            protocol: Protocol::UDP
        }]
    );
    let pod = good(
        "spec: {containers: [{ports: [{containerPort: 1, hostPort: 2, hostIP: 192.0.2.1}, {containerPort: 1, hostPort: 3, hostIP: 0.0.0.0}]}]}",
    );
    assert_eq!(
        *pod.host_ports
            .iter()
            .map(|port| port.address)
            .collect::<Vec<_>>(),
        [None, Some(ip("192.0.2.1"))]
    );
    let pod = good(
        "spec: {hostNetwork: true, containers: [{ports: [{containerPort: 80, hostPort: 80}]}]}",
    );
    assert!(pod.host_ports.is_empty());
}

#[test]
fn a_pod_without_readable_identity_is_refused() {
    for yaml in [
        "spec: text",
        "spec: {hostNetwork: 'yes'}",
        "spec: {nodeName: 5}",
        "spec: {serviceAccountName: [a]}",
        "status: []",
        "status: {phase: 3}",
    ] {
        let (pod, problems) = pod(yaml);
        assert_eq!(pod, None, "{yaml}");
        assert_eq!(problems.len(), 1, "{yaml}");
    }
    for metadata in [
        "labels: text",
        "labels: {a: 1}",
        "labels: {a: ~}",
        "annotations: 5",
        "creationTimestamp: soon",
    ] {
        let entry = entry(Kind::Pod, &format!("metadata: {{name: web, {metadata}}}"));
        assert_eq!(entry.object, None, "{metadata}");
        assert_eq!(entry.problems.len(), 1, "{metadata}");
    }
}

#[test]
fn an_unreadable_address_or_port_is_left_out_and_reported() {
    for (yaml, expected) in [
        (
            "status: {podIPs: [{ip: 10.0.0.300}, {ip: 10.0.0.5}]}",
            "status.podIPs[0].ip: \"10.0.0.300\" is no usable address",
        ),
        (
            "status: {podIPs: [{ip: '::ffff:10.0.0.1'}, {ip: 10.0.0.5}]}",
            "status.podIPs[0].ip: \"::ffff:10.0.0.1\" is no usable address",
        ),
        (
            "status: {podIPs: [{ip: 127.0.0.1}, {ip: 10.0.0.5}]}",
            "status.podIPs[0].ip: \"127.0.0.1\" is no usable address",
        ),
        (
            "status: {podIPs: [text, {ip: 10.0.0.5}]}",
            "status.podIPs[0]: expected an object, found \"text\"",
        ),
        (
            "status: {podIPs: text, podIP: 10.0.0.5}",
            "status.podIPs: expected a list, found \"text\"",
        ),
    ] {
        let (pod, problems) = pod(yaml);
        assert_eq!(pod.unwrap().workload.addresses, [ip("10.0.0.5")], "{yaml}");
        assert_eq!(problems, [expected], "{yaml}");
    }
    for port in [
        "{name: a, containerPort: 0}",
        "{name: a}",
        "{name: a, containerPort: 1, protocol: udp}",
        "text",
    ] {
        let (pod, problems) = pod(&format!(
            "spec: {{containers: [{{ports: [{port}, {{name: b, containerPort: 2}}]}}]}}"
        ));
        assert_eq!(pod.unwrap().workload.ports.len(), 1, "{port}");
        assert_eq!(problems.len(), 1, "{port}");
    }
}

#[test]
fn a_namespace_is_labelled_with_its_name_whatever_it_says() {
    let entry = entry(
        Kind::Namespace,
        "metadata: {name: shop, labels: {team: red, kubernetes.io/metadata.name: lie}}",
    );
    let Some(Object::Namespace(labels)) = entry.object else {
        panic!()
    };
    assert_eq!(labels["kubernetes.io/metadata.name"], "shop");
    assert_eq!(labels["team"], "red");
}

#[test]
fn nodes_have_internal_and_external_addresses() {
    let entry = entry(
        Kind::Node,
        "metadata: {name: n1}\nstatus: {addresses: [{type: Hostname, address: n1}, {type: InternalIP, address: 10.0.0.1}, \
         {type: ExternalIP, address: 'fd00::1'}, {type: InternalIP, address: nonsense}]}",
    );
    assert_eq!(
        problems(&entry),
        ["status.addresses[3].address: \"nonsense\" is no usable address"]
    );
    let Some(Object::Node(node)) = entry.object else {
        panic!()
    };
    assert_eq!(node.addresses, [ip("10.0.0.1"), ip("fd00::1")]);
}

fn service(yaml: &str) -> Service {
    let entry = entry(
        Kind::Service,
        &format!("metadata: {{name: s, namespace: shop}}\n{yaml}"),
    );
    assert_eq!(problems(&entry), [] as [&str; 0], "{yaml}");
    match entry.object {
        Some(Object::Service(service)) => service,
        other => panic!("{other:?}"),
    }
}

#[test]
fn services_list_every_address_they_are_translated_at() {
    let full = service(
        "spec: {type: LoadBalancer, clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd96::1'], externalIPs: [198.51.100.7], \
         ports: [{name: http, port: 80, nodePort: 30080}, {port: 53, protocol: UDP, nodePort: 0}], healthCheckNodePort: 32000}\n\
         status: {loadBalancer: {ingress: [{ip: 203.0.113.5}, {hostname: lb.example}]}}",
    );
    assert_eq!(
        full.addresses,
        [
            ip("10.96.0.1"),
            ip("198.51.100.7"),
            ip("203.0.113.5"),
            ip("fd96::1")
        ]
    );
    let port = |name: &str, number, protocol| ServicePort {
        name: name.into(),
        number,
        protocol,
    };
    let (http, dns) = (port("http", 80, Protocol::TCP), port("", 53, Protocol::UDP));
    assert_eq!(full.ports, [http, dns]);
    assert_eq!(full.node_ports, [(30080, Protocol::TCP)]);
    assert_eq!(
        service("spec: {clusterIP: None, ports: [{port: 80}]}").addresses,
        NOWHERE
    );
    assert_eq!(
        service("spec: {clusterIPs: [None], ports: [{port: 80}]}").addresses,
        NOWHERE
    );
    assert_eq!(
        service("spec: {clusterIP: '', ports: [{port: 80}]}").addresses,
        NOWHERE
    );
    assert_eq!(
        service("spec: {clusterIP: 10.96.0.2}").addresses,
        [ip("10.96.0.2")]
    );
    assert_eq!(
        service("spec: {type: ExternalName, externalName: x, externalIPs: [192.0.2.1]}"),
        Service {
            way: Way::External,
            ..Service::default()
        }
    );
    for (spec, way) in [
        ("{clusterIP: None}", Way::Headless),
        ("{clusterIPs: [None]}", Way::Headless),
        ("{clusterIP: ''}", Way::Translated),
        ("{clusterIPs: [10.96.0.2]}", Way::Translated),
    ] {
        assert_eq!(service(&format!("spec: {spec}")).way, way, "{spec}");
    }
}

#[test]
fn endpoint_slices_name_their_service_and_its_backends() {
    let entry = entry(
        Kind::EndpointSlice,
        "metadata: {name: s-1, namespace: shop, labels: {kubernetes.io/service-name: s}}\naddressType: IPv4\n\
         ports: [{name: http, port: 8080}, {port: 70000}]\n\
         endpoints: [{addresses: [10.0.0.5]}, {addresses: [10.0.0.6], conditions: {ready: false}}, {addresses: [no]}]",
    );
    assert_eq!(entry.problems.len(), 2);
    let Some(Object::EndpointSlice(slice)) = entry.object else {
        panic!()
    };
    assert_eq!(slice.service.as_deref(), Some("s"));
    assert_eq!(
        slice
            .endpoints
            .iter()
            .map(|end| end.ready)
            .collect::<Vec<_>>(),
        [true, false]
    );
    assert_eq!((slice.ports.len(), slice.ports[0].number), (1, Some(8080)));
}

#[test]
fn a_service_account_is_its_uid() {
    let read = |yaml: &str| entry(Kind::ServiceAccount, yaml);
    let entry = read("{metadata: {name: api, namespace: shop, uid: u1}, secrets: [{name: x}]}");
    let expected = Object::ServiceAccount(ServiceAccount { uid: "u1".into() });
    assert_eq!(entry.key.to_string(), "ServiceAccount shop/api");
    assert_eq!(
        (entry.object, problems(&read("{metadata: {name: a}}"))),
        (Some(expected), vec![])
    );
    let bad = read("{metadata: {name: api, annotations: {x: 5}}}");
    assert_eq!(
        problems(&bad),
        ["metadata.annotations.x: expected a string, found 5"]
    );
    assert_eq!((bad.object, bad.annotations), (None, None));
}

/// The keys that are kept of `annotations` on an object of this kind, seen from node n1.
fn kept(kind: Kind, keys: Keys, rest: &str) -> Vec<String> {
    let all = "{iam.amazonaws.com/role: a, example.com/role: b, iam.amazonaws.com/external-id: c, \
        eks.amazonaws.com/role-arn: d, portcullis.dev/imds-v1: deny, portcullis.dev/default-role: e, \
        iam.amazonaws.com/allowed-roles: '[]', kubectl.kubernetes.io/last-applied-configuration: long}";
    let value = value(&format!(
        "metadata: {{name: x, namespace: shop, annotations: {all}}}\n{rest}"
    ));
    let keep = Keep::for_roles("n1", keys);
    let entry = convert(identify(kind, &value).unwrap(), &value, &keep);
    assert_eq!(problems(&entry), [] as [&str; 0], "{rest}");
    let annotations = entry.annotations.map(|kept| kept.keys().cloned().collect());
    annotations.unwrap_or_default()
}

#[test]
fn only_annotations_that_roles_are_decided_from_are_kept() {
    let kept = |kind, rest| kept(kind, Keys::default(), rest);
    assert_eq!(
        kept(Kind::Pod, "spec: {nodeName: n1}"),
        [
            "iam.amazonaws.com/external-id",
            "iam.amazonaws.com/role",
            "portcullis.dev/imds-v1"
        ]
    );
    assert_eq!(
        kept(Kind::ServiceAccount, ""),
        [
            "eks.amazonaws.com/role-arn",
            "iam.amazonaws.com/external-id",
            "iam.amazonaws.com/role"
        ]
    );
    assert_eq!(
        kept(Kind::Namespace, ""),
        [
            "iam.amazonaws.com/allowed-roles",
            "portcullis.dev/default-role",
            "portcullis.dev/imds-v1"
        ]
    );
    for kind in [Kind::Node, Kind::Service, Kind::EndpointSlice] {
        assert_eq!(kept(kind, ""), [] as [&str; 0], "{kind}");
    }
}

#[test]
fn of_pods_elsewhere_nothing_is_kept() {
    for spec in ["{nodeName: n2}", "{}", "{nodeName: ''}", "~"] {
        let kept = kept(Kind::Pod, Keys::default(), &format!("spec: {spec}"));
        assert_eq!(kept, [] as [&str; 0], "{spec}");
    }
}

#[test]
fn other_keys_are_kept_instead_of_the_usual_ones() {
    let keys = Keys {
        role: "example.com/role".to_owned(),
        ..Keys::default()
    };
    assert_eq!(
        kept(Kind::Pod, keys, "spec: {nodeName: n1}"),
        [
            "example.com/role",
            "iam.amazonaws.com/external-id",
            "portcullis.dev/imds-v1"
        ]
    );
}
