//! Agents beside each other, and agents started by hand.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use portcullis_tests::scene::traffic::{Stream, connects, is_denied};
use portcullis_tests::scene::{Manifests, SOON, Scene, admin, kernel, wait_until};

use super::{POLICIES, all_verdicts, objects, pods, tcp};

/// An agent that a test started itself; it ends with the value.
struct Started {
    child: Child,
    socket: PathBuf,
}

impl Started {
    fn new(mut command: Command, socket: PathBuf) -> Self {
        let log = fs::File::create(socket.with_extension("log")).expect("a log can be written");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = command.spawn().expect("the agent starts");
        let this = Self { child, socket };
        this.settle();
        this
    }

    fn settle(&self) {
        wait_until("the agent takes requests", SOON * 2, || {
            admin::get(&self.socket, "/healthz").is_ok()
        });
        let answer = admin::request(&self.socket, "POST", "/v1/synced", SOON * 3);
        assert_eq!(answer.expect("the agent answers").status, 204);
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The words of the agent's command line with `option` set to another value.
fn words(scene: &Scene, changes: &[(&str, &str)]) -> Vec<String> {
    let line = scene.agent.command_line();
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    for (option, value) in changes {
        let at = words.iter().position(|word| word == option);
        (*value).clone_into(&mut words[at.expect("the option is there") + 1]);
    }
    words
}

#[test]
fn an_agent_entered_by_nsenter_takes_over() {
    let mut scene = Scene::up("re-nsenter", &pods(), POLICIES);
    let links = objects(&scene, "links");
    let mut stream = Stream::open(scene.netns("shop/web"), tcp(&scene, "shop/db")[0]);
    scene.kill();
    let words = words(&scene, &[]);
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", scene.lab.node().path().display()));
    command.args(&words);
    let agent = Started::new(command, scene.socket().to_owned());
    let status = scene.status();
    assert_eq!(
        (&status["adopted"], &status["mapWrites"]),
        (&true.into(), &0.into())
    );
    assert_eq!(objects(&scene, "links"), links);
    stream.works();
    all_verdicts(&scene);
    drop(agent);
    scene.down();
}

#[test]
fn two_agents_with_pins_of_their_own_do_not_meet() {
    let scene = Scene::up("re-beside", &pods(), POLICIES);
    let own = [objects(&scene, "maps"), objects(&scene, "links")].concat();
    // The other one closes `db` to all.
    let stricter = POLICIES.replace("ingress: [{from:", "ingress: []\n  xyz: [{from:");
    let stricter = stricter
        .split("\n  xyz")
        .next()
        .expect("there is a first part");
    let manifests = Manifests::new(&pods(), stricter);
    let directory = scene.lab.state().directory();
    let pins = scene.lab.state().bpffs().join("beside");
    let socket = directory.join("beside.sock");
    let text = |path: &std::path::Path| path.display().to_string();
    let words = words(
        &scene,
        &[
            ("--bpffs", &text(&pins)),
            ("--socket", &text(&socket)),
            ("--manifests", &text(manifests.path())),
        ],
    );
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    scene
        .lab
        .node()
        .enter(&mut command)
        .expect("the node can be entered");
    let web = scene.netns("shop/web");
    let to = tcp(&scene, "shop/db")[0];
    let mut stream = Stream::open(web, to);
    let mut agent = Started::new(command, socket);
    // Each is asked about each packet, and one that denies is enough.
    assert!(is_denied(web, to));
    stream.is_cut();
    let others = kernel::pinned(&pins);
    assert!(others.is_disjoint(&own.iter().map(|(.., object)| *object).collect()));
    agent.child.kill().expect("the agent can be killed");
    agent.child.wait().expect("and waited for");
    assert!(is_denied(web, to), "its pins decide on");

    let mut uninstall = Command::new(&words[0]);
    uninstall.args(["uninstall", "--yes", "--bpffs"]).arg(&pins);
    scene
        .lab
        .node()
        .enter(&mut uninstall)
        .expect("the node can be entered");
    let output = uninstall.output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    for (kind, id) in others {
        wait_until("its objects are gone", SOON, || !kernel::lives(kind, id));
    }
    assert_eq!(
        [objects(&scene, "maps"), objects(&scene, "links")].concat(),
        own
    );
    assert!(connects(web, to));
    all_verdicts(&scene);
    drop(agent);
    scene.down();
}

#[test]
fn a_second_agent_on_the_same_pins_is_turned_away() {
    let scene = Scene::up("re-twice", &pods(), POLICIES);
    let links = objects(&scene, "links");
    let writes = scene.status()["mapWrites"].clone();
    let words = words(&scene, &[]);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    let node = scene.lab.node();
    node.enter(&mut command).expect("the node can be entered");
    let output = command.output().expect("it ends by itself");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("error PC1010: another agent runs on the pins at"),
        "{said}"
    );
    // The first one notices nothing and still answers on its socket.
    assert_eq!(scene.status()["mapWrites"], writes);
    assert_eq!(objects(&scene, "links"), links);
    scene.settle();
    all_verdicts(&scene);
    scene.down();
}

/// The kernel tells a process that asks to be lied to (`personality(2)`, `UNAME26`) that it is 2.6.
#[test]
fn on_a_kernel_that_is_too_old_it_ends_with_three_lines_and_pins_nothing() {
    let mut scene = Scene::up("re-old", &pods(), POLICIES);
    scene.kill();
    let pins = scene.lab.state().bpffs().join("old");
    let words = words(&scene, &[("--bpffs", &pins.display().to_string())]);
    let before = kernel::pinned(&scene.pins());
    let mut command = Command::new("setarch");
    command.arg("--uname-2.6").args(&words);
    let node = scene.lab.node();
    node.enter(&mut command).expect("the node can be entered");
    let output = command.output().expect("it ends by itself");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("error PC1004: "), "{said}");
    assert!(lines[1].starts_with("why:  "), "{said}");
    assert!(lines[2].starts_with("do:   "), "{said}");
    assert!(!pins.exists());
    assert_eq!(kernel::pinned(&scene.pins()), before);
    scene.down();
}
