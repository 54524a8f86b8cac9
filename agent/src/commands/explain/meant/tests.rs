use super::super::online::tests::view_of;
use super::super::target::read;
use super::*;

/// A source of both families, one of one family, and a Service with backends of both.
pub(crate) const OBJECTS: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1}
status: {phase: Running, podIPs: [{ip: 'fd00::1:2'}, {ip: 10.0.1.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: old, namespace: shop, labels: {app: web}}
spec: {nodeName: n1}
status: {phase: Running, podIPs: [{ip: 10.0.1.3}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: shop, labels: {app: db}}
spec: {nodeName: n2}
status: {phase: Running, podIPs: [{ip: 10.0.2.2}, {ip: 'fd00::2:2'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db-1, namespace: shop, labels: {app: db}}
spec: {nodeName: n1}
status: {phase: Running, podIPs: [{ip: 10.0.1.9}, {ip: 'fd00::1:9'}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIPs: [10.96.0.1, 'fd96::1'], ports: [{name: sql, port: 5432, targetPort: 15432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-4, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 15432}]
endpoints: [{addresses: [10.0.2.2]}, {addresses: [10.0.1.9]}, {addresses: [192.168.0.1]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-6, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv6
ports: [{name: sql, port: 15432}]
endpoints: [{addresses: ['fd00::2:2']}]
---
apiVersion: v1
kind: Service
metadata: {name: six, namespace: shop}
spec: {clusterIP: 'fd96::6', ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: six-1, namespace: shop, labels: {kubernetes.io/service-name: six}}
addressType: IPv6
ports: [{port: 80}]
endpoints: [{addresses: ['fd00::2:2']}]
";

/// Packets in words: `source > backend`.
fn packets(source: &str, destination: &str) -> Result<Vec<String>, Failure> {
    let view = view_of(OBJECTS, "n1", 1);
    let target = read(source, destination)?;
    let meant = meant(&view.model, &view.services, &target).map_err(Failure::from)?;
    let one = |packet: &ResolvedProbe| {
        let (src, dst) = (packet.src.address, packet.dst.address);
        format!("{src} > {} {dst} {}", packet.dst, packet.dst_port)
    };
    Ok(match meant {
        Meant::Packet(packet) => vec![one(&packet)],
        Meant::Service(service, packets) => {
            let asked = format!("{}/{} {}", service.namespace, service.name, service.port);
            assert!(
                ["shop/db 5432", "shop/six 80"].contains(&asked.as_str()),
                "{asked}"
            );
            packets.iter().map(one).collect()
        }
    })
}

#[test]
fn a_service_is_every_backend_at_its_own_port() {
    let expected = [
        "10.0.1.3 > 192.168.0.1 192.168.0.1 15432",
        "10.0.1.3 > shop/db-1 10.0.1.9 15432",
        "10.0.1.3 > shop/db-0 10.0.2.2 15432",
    ];
    for destination in ["svc/shop/db", "svc/shop/db:sql", "svc/shop/db:5432"] {
        let packets = packets("shop/old", destination).expect("can be asked");
        assert_eq!(packets, expected, "{destination}");
    }
}

#[test]
fn the_family_is_the_first_of_the_source_s_that_a_backend_has() {
    let six = ["fd00::1:2 > shop/db-0 fd00::2:2 15432"];
    assert_eq!(
        packets("shop/web", "svc/shop/db").as_deref(),
        Ok(&six.map(str::to_owned)[..])
    );
    let failure = packets("shop/old", "svc/shop/six").expect_err("no family in common");
    assert_eq!(failure.code, "PC5004");
    assert_eq!(failure.why, "its backends have IPv6 addresses only");
}

#[test]
fn the_address_of_a_service_is_the_service() {
    let four = packets("shop/web", "10.96.0.1:5432").expect("can be asked");
    assert_eq!(four.len(), 3, "of the address's family: {four:?}");
    assert!(four.iter().all(|packet| packet.starts_with("10.0.1.2 > ")));
    let six = packets("shop/web", "[fd96::1]:5432").expect("can be asked");
    assert_eq!(six, ["fd00::1:2 > shop/db-0 fd00::2:2 15432"]);
    // Nothing is translated at another port, or for ICMP.
    let other = packets("shop/web", "10.96.0.1:80").expect("can be asked");
    assert_eq!(other, ["10.0.1.2 > 10.96.0.1 10.96.0.1 80"]);
    let ping = packets("shop/web", "10.96.0.1:icmp").expect("can be asked");
    assert_eq!(ping, ["10.0.1.2 > 10.96.0.1 10.96.0.1 0"]);
    let failure = packets("shop/old", "[fd96::1]:5432").expect_err("of one family only");
    assert!(
        failure.what.contains("no address of this family"),
        "{}",
        failure.what
    );
}

#[test]
fn what_cannot_be_asked_says_what_to_do() {
    let failure = packets("shop/web", "svc/shop/nobody:80").expect_err("there is none");
    assert_eq!(
        (failure.code, failure.what.as_str()),
        ("PC5004", "cannot ask about Service shop/nobody")
    );
    assert_eq!(failure.do_, "see `kubectl get services -n shop`");
    let failure = packets("shop/web", "shop/db:5432").expect_err("is no pod");
    assert_eq!(failure.do_, "write svc/shop/db for the Service");
    let failure = packets("shop/nobody", "svc/shop/db").expect_err("is no pod");
    assert!(failure.what.contains("no such pod"), "{}", failure.what);
}
