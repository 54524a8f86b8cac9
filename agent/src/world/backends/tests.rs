use std::time::SystemTime;

use super::*;
use crate::kube::manifests;
use crate::world::World;

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIPs: [10.96.0.1, 'fd96::1']
  ports: [{name: http, port: 80, targetPort: 8080}, {name: dns, port: 53, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: dns, port: 5353, protocol: UDP}]
endpoints: [{addresses: [10.0.0.2, 10.0.9.9]}, {addresses: [10.0.0.3], conditions: {ready: false}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-2, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 9090}, {name: dns, port: 5353}]
endpoints: [{addresses: [10.0.0.4]}, {addresses: [10.0.0.2]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-6, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, port: 8080}]
endpoints: [{addresses: ['fd00::2']}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: other, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.66]}]
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None, ports: [{name: sql, port: 5432, targetPort: 15432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 15432}]
endpoints: [{addresses: [10.0.0.7]}]
---
apiVersion: v1
kind: Service
metadata: {name: down, namespace: shop}
spec: {clusterIP: 10.96.0.3, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: down-1, namespace: shop, labels: {kubernetes.io/service-name: down}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.0.0.8], conditions: {ready: false}}]
---
apiVersion: v1
kind: Service
metadata: {name: bare, namespace: shop}
spec: {clusterIP: 10.96.0.4, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: away, namespace: shop}
spec: {type: ExternalName, externalName: db.example}
---
apiVersion: v1
kind: Service
metadata: {name: portless, namespace: shop}
spec: {clusterIP: None}
";

fn services() -> std::sync::Arc<Services> {
    let directory = std::env::temp_dir().join(format!("portcullis-backends-{}", own_name()));
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    std::fs::write(directory.join("objects.yaml"), OBJECTS).expect("a file in it");
    let mut world = World::new("n1");
    world.apply_batch(
        manifests::read(&directory).expect("can be read"),
        SystemTime::UNIX_EPOCH,
    );
    std::fs::remove_dir_all(&directory).expect("can be removed");
    assert!(world.refused().is_empty(), "{:?}", world.refused());
    world.services()
}

/// Another one for each test.
fn own_name() -> String {
    format!("{}-{:?}", std::process::id(), std::thread::current().id())
}

/// Port, protocol and backends in words.
fn behind(name: &str, wanted: &WantedPort) -> Result<String, Lacks> {
    let backends = services().backends("shop", name, wanted)?;
    let ready: Vec<String> = backends.ready.iter().map(ToString::to_string).collect();
    Ok(format!(
        "{}/{}: {}",
        backends.port,
        backends.protocol,
        ready.join(" ")
    ))
}

#[test]
fn a_port_leads_to_the_ready_backends_of_every_slice_at_the_ports_there() {
    let expected = "80/tcp: 10.0.0.2:8080 10.0.0.2:9090 10.0.0.4:9090 [fd00::2]:8080";
    for wanted in [
        WantedPort::Named("http".to_owned()),
        WantedPort::Number(80, Protocol::TCP),
    ] {
        assert_eq!(behind("web", &wanted).as_deref(), Ok(expected));
    }
    // The second slice's port of that name is another protocol's.
    let dns = behind("web", &WantedPort::Number(53, Protocol::UDP));
    assert_eq!(dns.as_deref(), Ok("53/udp: 10.0.0.2:5353"));
}

#[test]
fn a_headless_service_translates_nothing() {
    let typed = behind("db", &WantedPort::Number(7, Protocol::TCP));
    assert_eq!(typed.as_deref(), Ok("7/tcp: 10.0.0.7:7"));
    // A name is looked up in DNS, which answers with the backends' port.
    let named = behind("db", &WantedPort::Named("sql".to_owned()));
    assert_eq!(named.as_deref(), Ok("5432/tcp: 10.0.0.7:15432"));
}

#[test]
fn what_leads_nowhere_says_why() {
    let number = |number| WantedPort::Number(number, Protocol::TCP);
    let has = "http 80/tcp, dns 53/udp".to_owned();
    for (name, wanted, lacks) in [
        ("nobody", number(80), Lacks::Service),
        ("away", number(80), Lacks::External),
        ("web", number(8080), Lacks::Port(has.clone())),
        ("web", number(53), Lacks::Port(has.clone())),
        ("web", WantedPort::Only, Lacks::Several(has)),
        ("portless", WantedPort::Only, Lacks::NoPort),
        ("bare", number(80), Lacks::Slices),
        ("down", WantedPort::Only, Lacks::Ready(1)),
    ] {
        assert_eq!(behind(name, &wanted), Err(lacks), "{name}");
    }
}

#[test]
fn an_address_is_that_of_the_service_which_is_translated_there() {
    let services = services();
    let at = |address: &str, port, protocol| {
        let address = address.parse().expect("an address");
        services.at(address, port, protocol)
    };
    assert_eq!(at("10.96.0.1", 80, Protocol::TCP), Some(("shop", "web")));
    assert_eq!(at("fd96::1", 53, Protocol::UDP), Some(("shop", "web")));
    assert_eq!(at("10.96.0.1", 81, Protocol::TCP), None);
    assert_eq!(at("10.96.0.1", 80, Protocol::UDP), None);
    assert_eq!(at("10.0.0.2", 8080, Protocol::TCP), None);
}
