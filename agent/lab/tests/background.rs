//! A lab handed over to a background process and taken down by another one. Needs root and namespaces.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use portcullis_lab::cgroup::Membership;
use portcullis_lab::client::banner;
use portcullis_lab::{
    Lab, LabOptions, LabPod, LabSpec, LabState, Listen, preflight, serve, teardown,
};

const SERVED: &str = "PORTCULLIS_LAB_TEST_SERVES";

/// Not a test of its own: the body of the background process, started by the test below through a script.
#[test]
fn background_process() {
    if let Ok(name) = std::env::var(SERVED) {
        serve::serve(&name).unwrap();
    }
}

#[test]
fn a_lab_outlives_its_builder_and_is_served_and_taken_down_by_others() {
    assert_eq!(preflight::missing(), Vec::<String>::new());
    let name = format!("t-bg-{}", std::process::id());
    let binary = std::env::temp_dir().join(&name);
    let own = std::env::current_exe().unwrap();
    fs::write(
        &binary,
        format!(
            "#!/bin/sh\n{SERVED}=\"$4\" exec {} --exact background_process\n",
            own.display()
        ),
    )
    .unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let pod = LabPod {
        namespace: "shop".into(),
        name: "db".into(),
        uid: "u1".into(),
        addresses: vec!["10.0.1.2".parse().unwrap()],
        ports: vec![Listen::Tcp(5432)],
        host_network: false,
    };
    let spec = LabSpec {
        node: "a".into(),
        node_addresses: vec!["10.0.0.10".parse().unwrap()],
        pods: vec![pod],
        outside: vec![],
    };
    let mut lab = Lab::up(spec, LabOptions::named(&name)).unwrap();
    serve::spawn(&mut lab, &binary).unwrap();
    lab.persist().unwrap();
    fs::remove_file(binary).unwrap();

    assert!(LabState::names().contains(&name));
    assert!(
        LabState::load(&name)
            .unwrap()
            .unwrap()
            .running("services")
            .is_some()
    );
    let lab = Lab::open(&name).unwrap();
    assert_eq!(
        banner(
            lab.node(),
            "10.0.1.2:5432".parse().unwrap(),
            Duration::from_secs(2)
        )
        .unwrap(),
        "shop/db"
    );
    if let Some(cgroups) = lab.cgroups() {
        let before = fs::read_to_string("/proc/self/cgroup").unwrap();
        let membership = Membership::enter(&cgroups.system()).unwrap();
        assert!(
            fs::read_to_string("/proc/self/cgroup")
                .unwrap()
                .contains(&format!("0::/portcullis-lab-{name}/system"))
        );
        drop(membership);
        assert_eq!(fs::read_to_string("/proc/self/cgroup").unwrap(), before);
    }
    drop(lab);
    assert!(!LabState::load(&name).unwrap().unwrap().is_abandoned());
    assert!(
        !teardown::residue(&name).is_empty(),
        "opening a lab and letting it go leaves it up"
    );
    teardown::down(&name).unwrap();
    assert_eq!(teardown::residue(&name), Vec::<String>::new());
}
