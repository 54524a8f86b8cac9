//! The node's own metadata service: every path that AWS' mock of it has (amazon-ec2-metadata-mock 1.13), each with a value that cannot be taken for anything
//! else, and a log of what it was asked.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use portcullis_lab::NetNs;

use crate::scene::{SOON, ip};

/// Its port on the node's loopback interface.
const PORT: u16 = 5002;
/// In every value that has no form to keep.
pub const MARK: &str = "NODE-ONLY";
/// The access key id of the node.
pub const NODE_KEY: &str = "ASIANODEONLYNODEONLY";
/// The node's role.
pub const NODE_ROLE: &str = "node-only-role";

/// What lies below the version.
pub const PATHS: &[&str] = &[
    "meta-data/ami-id",
    "meta-data/ami-launch-index",
    "meta-data/ami-manifest-path",
    "meta-data/autoscaling/target-lifecycle-state",
    "meta-data/block-device-mapping/ami",
    "meta-data/block-device-mapping/ebs0",
    "meta-data/block-device-mapping/ephemeral0",
    "meta-data/block-device-mapping/root",
    "meta-data/block-device-mapping/swap",
    "meta-data/elastic-inference/associations",
    "meta-data/elastic-inference/associations/eia-bfa21c7904f64a82a21b9f4540169ce1",
    "meta-data/events/maintenance/scheduled",
    "meta-data/events/recommendations/rebalance",
    "meta-data/hostname",
    "meta-data/iam/info",
    "meta-data/iam/security-credentials/",
    "meta-data/iam/security-credentials/node-only-role",
    "meta-data/identity-credentials/ec2/info",
    "meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
    "meta-data/instance-action",
    "meta-data/instance-id",
    "meta-data/instance-life-cycle",
    "meta-data/instance-type",
    "meta-data/kernel-id",
    "meta-data/local-hostname",
    "meta-data/local-ipv4",
    "meta-data/mac",
    "meta-data/managed-ssh-keys/signer-ca",
    "meta-data/network/interfaces/macs/",
    "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/device-number",
    "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/interface-id",
    "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/ipv4-associations/192.0.2.54",
    "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/ipv6s",
    "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/local-hostname",
    "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/local-ipv4s",
    "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/mac",
    "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/network-card-index",
    "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/owner-id",
    "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/public-hostname",
    "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/public-ipv4s",
    "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/security-group-ids",
    "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/security-groups",
    "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/subnet-id",
    "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/subnet-ipv4-cidr-block",
    "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/subnet-ipv6-cidr-blocks",
    "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/vpc-id",
    "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/vpc-ipv4-cidr-block",
    "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/vpc-ipv4-cidr-blocks",
    "meta-data/network/interfaces/macs/0e:49:61:0f:c3:11/vpc-ipv6-cidr-blocks",
    "meta-data/placement/availability-zone",
    "meta-data/placement/availability-zone-id",
    "meta-data/placement/group-name",
    "meta-data/placement/host-id",
    "meta-data/placement/partition-number",
    "meta-data/placement/region",
    "meta-data/product-codes",
    "meta-data/public-hostname",
    "meta-data/public-ipv4",
    "meta-data/public-keys/0/openssh-key",
    "meta-data/ramdisk-id",
    "meta-data/reservation-id",
    "meta-data/security-groups",
    "meta-data/services/domain",
    "meta-data/services/partition",
    "meta-data/spot/instance-action",
    "meta-data/spot/termination-time",
    "meta-data/tags/instance/",
    "meta-data/tags/instance/Name",
    "meta-data/tags/instance/Test",
    "dynamic/fws/instance-monitoring",
    "dynamic/instance-identity/document",
    "dynamic/instance-identity/pkcs7",
    "dynamic/instance-identity/rsa2048",
    "dynamic/instance-identity/signature",
    "user-data",
];

/// What stands at a path of [`PATHS`].
#[must_use]
pub fn value(path: &str) -> String {
    match path {
        "meta-data/placement/region" => "eu-west-1".to_owned(),
        "meta-data/network/interfaces/macs/" => "0e:49:61:0f:c3:11/".to_owned(),
        "meta-data/tags/instance/" => "Name\nTest".to_owned(),
        "meta-data/iam/info" => r#"{"Code":"Success","InstanceProfileArn":"arn:aws:iam::123456789012:instance-profile/NODE-ONLY/profile"}"#.to_owned(),
        "meta-data/iam/security-credentials/" => NODE_ROLE.to_owned(),
        "meta-data/iam/security-credentials/node-only-role" => format!(
            r#"{{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"{NODE_KEY}","SecretAccessKey":"{MARK}-SECRET","Token":"{MARK}-TOKEN","Expiration":"2099-01-01T00:00:00Z"}}"#
        ),
        "dynamic/instance-identity/document" => r#"{"accountId":"123456789012","architecture":"arm64","availabilityZone":"eu-west-1a","imageId":"ami-NODE-ONLY","instanceId":"i-NODE-ONLY","instanceType":"m7g.large","privateIp":"10.0.7.10","region":"eu-west-1","version":"2017-09-30"}"#.to_owned(),
        path => format!("{MARK} {path}"),
    }
}

/// A running service. Dropping it closes it.
#[derive(Debug)]
pub struct Instance {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    heads: Mutex<Vec<String>>,
    closed: AtomicBool,
}

impl Instance {
    /// Where it is, on any node.
    #[must_use]
    pub fn url() -> String {
        format!("http://127.0.0.1:{PORT}")
    }

    /// Starts it in the node.
    #[must_use]
    pub fn start(node: &NetNs) -> Self {
        let at: SocketAddr = (ip("127.0.0.1"), PORT).into();
        let listener = node.run(|| Ok(TcpListener::bind(at)?));
        let listener = listener.expect("the port is free");
        let shared = Arc::<Shared>::default();
        let open = Arc::clone(&shared);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if open.closed.load(Ordering::Relaxed) {
                    break;
                }
                let shared = Arc::clone(&open);
                thread::spawn(move || shared.serve(stream));
            }
        });
        Self { shared }
    }

    /// Every head that came, in order.
    #[must_use]
    pub fn heads(&self) -> Vec<String> {
        let heads = self.shared.heads.lock();
        heads.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often a path below the version was asked for.
    #[must_use]
    pub fn asked(&self, path: &str) -> usize {
        let line = format!(" /latest/{path} HTTP/1.1\r\n");
        let heads = self.heads();
        heads.iter().filter(|head| head.contains(&line)).count()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Its thread sees this at the next connection, or ends with the process; the port goes with the namespace.
        self.shared.closed.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    /// One request, one answer.
    fn serve(&self, mut stream: TcpStream) {
        let mut head = Vec::new();
        let mut byte = [0];
        let _ = stream.set_read_timeout(Some(SOON));
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => head.extend(byte),
                _ => break,
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let (status, body) = answer(&head);
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        heads.push(head);
        drop(heads);
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status} X\r\nServer: {MARK}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        // Whoever asked may be gone.
        let _ = stream.write_all(answer.as_bytes());
    }
}

fn answer(head: &str) -> (u16, String) {
    let mut words = head.split(' ');
    let method = words.next().unwrap_or_default();
    let target = words.next().unwrap_or_default();
    let token = format!("{MARK}-IMDS-TOKEN");
    if (method, target) == ("PUT", "/latest/api/token") {
        return (200, token);
    }
    if !head.contains(&format!("X-aws-ec2-metadata-token: {token}\r\n")) {
        return (401, String::new());
    }
    let path = target.strip_prefix("/latest/").unwrap_or_default();
    if method == "GET" && PATHS.contains(&path) {
        (200, value(path))
    } else {
        (404, String::new())
    }
}
