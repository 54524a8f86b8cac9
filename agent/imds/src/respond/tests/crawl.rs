//! Everything that instance metadata is documented to have, asked for by a pod.

use std::collections::BTreeSet;

use super::*;

/// The categories of Amazon's documentation, with an example for each variable part, and paths that were never documented or are gone.
const DOCUMENTED: &str = "
meta-data/ami-id meta-data/ami-launch-index meta-data/ami-manifest-path meta-data/ancestor-ami-ids
meta-data/autoscaling meta-data/autoscaling/target-lifecycle-state
meta-data/block-device-mapping meta-data/block-device-mapping/ami meta-data/block-device-mapping/ebs1
meta-data/block-device-mapping/ephemeral0 meta-data/block-device-mapping/root meta-data/block-device-mapping/swap
meta-data/elastic-gpus/associations/eg-1 meta-data/elastic-inference/associations/eia-1
meta-data/events meta-data/events/maintenance/history meta-data/events/maintenance/scheduled
meta-data/events/recommendations/rebalance
meta-data/hostname meta-data/iam/instance-profile meta-data/iam/security-credentials-x
meta-data/identity-credentials meta-data/identity-credentials/ec2 meta-data/identity-credentials/ec2/info
meta-data/identity-credentials/ec2/security-credentials
meta-data/identity-credentials/ec2/security-credentials/ec2-instance
meta-data/instance-action meta-data/instance-id meta-data/instance-life-cycle meta-data/instance-type
meta-data/ipv6 meta-data/kernel-id meta-data/local-hostname meta-data/local-ipv4 meta-data/mac
meta-data/managed-ssh-keys meta-data/managed-ssh-keys/signer-ca
meta-data/metrics/vhostmd
meta-data/network meta-data/network/interfaces/macs meta-data/network/interfaces/macs/02:29:96:8f:6a:2d
meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/device-number
meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/interface-id
meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/ipv4-associations/203.0.113.7
meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/ipv6s
meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/local-hostname
meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/local-ipv4s
meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/mac
meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/network-card
meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/owner-id
meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/public-hostname
meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/public-ipv4s
meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/security-groups
meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/security-group-ids
meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/subnet-id
meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/subnet-ipv4-cidr-block
meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/subnet-ipv6-cidr-blocks
meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/vpc-id
meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/vpc-ipv4-cidr-block
meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/vpc-ipv4-cidr-blocks
meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/vpc-ipv6-cidr-blocks
meta-data/placement meta-data/placement/availability-zone meta-data/placement/availability-zone-id
meta-data/placement/group-name meta-data/placement/host-id meta-data/placement/partition-number meta-data/placement/region
meta-data/product-codes meta-data/profile meta-data/public-hostname meta-data/public-ipv4
meta-data/public-keys meta-data/public-keys/0 meta-data/public-keys/0/openssh-key
meta-data/ramdisk-id meta-data/reservation-id meta-data/security-groups
meta-data/services meta-data/services/domain meta-data/services/partition
meta-data/spot meta-data/spot/instance-action meta-data/spot/termination-time
meta-data/system meta-data/tags meta-data/tags/instance meta-data/tags/instance/Name
dynamic dynamic/fws/instance-monitoring dynamic/instance-identity dynamic/instance-identity/document
dynamic/instance-identity/pkcs7 dynamic/instance-identity/rsa2048 dynamic/instance-identity/signature
user-data spot api api/token/x meta-data/iam/security-credentials/node-role
meta-data/iam meta-data/iam/info meta-data/iam/security-credentials
";

/// All that a pod with a role may read by default.
const READABLE: [&str; 16] = [
    "meta-data/iam",
    "meta-data/iam/info",
    "meta-data/iam/security-credentials",
    "meta-data/iam/security-credentials/app",
    "meta-data/instance-id",
    "meta-data/instance-type",
    "meta-data/placement",
    "meta-data/placement/availability-zone",
    "meta-data/placement/availability-zone-id",
    "meta-data/placement/region",
    "meta-data/services",
    "meta-data/services/domain",
    "meta-data/services/partition",
    "dynamic",
    "dynamic/instance-identity",
    "dynamic/instance-identity/document",
];

#[test]
fn i11_of_all_documented_metadata_only_the_table_answers() {
    for version in ["latest", "1.0", "2021-07-15"] {
        for path in DOCUMENTED.split_whitespace() {
            for slash in ["", "/"] {
                let got = ask(&format!("GET /{version}/{path}{slash}"), &with_role());
                if READABLE.contains(&path) {
                    assert_eq!(status(&got), 200, "{path}");
                } else {
                    assert!([403, 404].contains(&status(&got)), "{path}: {got:?}");
                }
            }
        }
    }
}

#[test]
fn i11_listings_lead_to_the_table_and_nowhere_else() {
    let mut found = BTreeSet::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let Got::Said(200, listing) = ask(&format!("GET /latest/{folder}"), &with_role()) else {
            panic!("{folder} was listed");
        };
        assert!(!listing.is_empty() && !listing.ends_with('\n'), "{folder}");
        for name in listing.lines() {
            let path = format!("{folder}{name}");
            if path == "meta-data/iam/security-credentials/" {
                found.insert("meta-data/iam/security-credentials/app".to_owned());
            } else if path.ends_with('/') {
                folders.push(path.clone());
            }
            found.insert(path.trim_end_matches('/').to_owned());
        }
    }
    found.remove("meta-data");
    assert_eq!(found, READABLE.map(str::to_owned).into());
}

#[test]
fn i11_a_pod_with_nothing_to_read_finds_nothing() {
    let pod = Pod {
        role: Assigned::None(String::new()),
        imds_v1: false,
        facts: Arc::default(),
    };
    let caller = Caller::Known(Arc::new(pod));
    for path in ["/", "/latest", "/latest/meta-data", "/latest/dynamic"] {
        assert_eq!(status(&ask(&format!("GET {path}"), &caller)), 404, "{path}");
    }
}

#[test]
fn an_opted_in_fact_is_read_and_listed() {
    let mut facts = Facts::default();
    let path = "meta-data/network/interfaces/macs/02:29:96:8f:6a:2d/subnet-id";
    facts.insert(path, "subnet-1\n").expect("a plain path");
    let pod = Pod {
        role: Assigned::None(String::new()),
        imds_v1: false,
        facts: Arc::new(facts),
    };
    let caller = Caller::Known(Arc::new(pod));
    assert_eq!(
        ask(&format!("GET /latest/{path}"), &caller),
        said(200, "subnet-1")
    );
    assert_eq!(
        ask("GET /latest/meta-data/network/interfaces/macs/", &caller),
        said(200, "02:29:96:8f:6a:2d/")
    );
    assert_eq!(ask("GET /", &caller), said(200, "1.0/\nlatest/"));
}

#[test]
fn the_identity_document_is_the_reduced_one() {
    assert_eq!(
        ask(
            "GET /latest/dynamic/instance-identity/document",
            &with_role()
        ),
        said(
            200,
            r#"{"accountId":"123456789012","architecture":"arm64","availabilityZone":"eu-west-1a","instanceType":"m7g.large","region":"eu-west-1","version":"2017-09-30"}"#
        )
    );
}

#[test]
fn a_fact_that_is_not_known_yet_is_asked_for_again_and_what_there_is_not_is_not() {
    let mut facts = Facts::default();
    facts.expect("meta-data/placement/region");
    let pod = Pod {
        role: Assigned::None(String::new()),
        imds_v1: false,
        facts: Arc::new(facts),
    };
    let caller = Caller::Known(Arc::new(pod));
    for path in [
        "/",
        "/latest",
        "/latest/meta-data",
        "/latest/meta-data/placement/region/",
    ] {
        assert_eq!(status(&ask(&format!("GET {path}"), &caller)), 503, "{path}");
    }
    for path in [
        "/latest/user-data",
        "/latest/dynamic",
        "/latest/meta-data/mac",
        "/2/meta-data",
    ] {
        assert_eq!(status(&ask(&format!("GET {path}"), &caller)), 404, "{path}");
    }
}
