//! Files and directories that change under the agent, which follows them by itself: nobody asks it to read here.

use std::fs;
use std::os::unix::fs::symlink;

use portcullis_tests::scene::traffic::{Conversation, Stream};
use portcullis_tests::scene::{SOON, Scene, wait_until};

use super::{NOBODY, Question, WEB, db, isolated_by, pods};

const ENDS: (&str, &str) = ("shop/web", "shop/db");

/// A policy that isolates all pods of `shop`.
fn closed(name: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, namespace: shop}}, \
         spec: {{podSelector: {{}}, policyTypes: [Ingress]}}}}"
    )
}

#[test]
fn documents_lists_and_json_all_count() {
    let scene = Scene::up("feed-forms", &pods(), "");
    isolated_by(&scene, "shop/db", &[]);
    let several = format!(
        "{}\n---\n{}\n---\n# nothing\n---\n",
        closed("a"),
        closed("b")
    );
    scene.manifests.write("several.yaml", &several);
    isolated_by(&scene, "shop/db", &["shop/a", "shop/b"]);
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {}\n- {}\n",
        closed("c"),
        closed("d")
    );
    scene.manifests.write("list.yml", &list);
    let typed = r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicyList", "items": [{"metadata":
        {"name": "e", "namespace": "shop"}, "spec": {"podSelector": {}}}]}"#;
    scene.manifests.write("typed.json", typed);
    let all = ["shop/a", "shop/b", "shop/c", "shop/d", "shop/e"];
    isolated_by(&scene, "shop/db", &all);
    // Hidden files, other ends and directories are nobody's.
    scene.manifests.write(".hidden.yaml", &closed("hidden"));
    scene.manifests.write("notes.txt", &closed("notes"));
    fs::create_dir(scene.manifests.path().join("more.yaml")).expect("it can be made");
    fs::write(
        scene.manifests.path().join("more.yaml/x.yaml"),
        closed("deep"),
    )
    .expect("written");
    scene.manifests.remove_file("several.yaml");
    isolated_by(&scene, "shop/db", &all[2..]);
    scene.settle();
    isolated_by(&scene, "shop/db", &all[2..]);
    assert_eq!(scene.status()["refused"], serde_json::json!([]));
    scene.down();
}

#[test]
fn a_file_that_is_renamed_says_the_same_and_one_that_is_gone_nothing() {
    let scene = Scene::up("feed-rename", &pods(), &db(WEB));
    let to = (scene.address("shop/db"), 8080).into();
    let busy = Conversation::start(Stream::open(scene.netns("shop/web"), to));
    let writes = scene.status()["mapWrites"].clone();
    let path = |name: &str| scene.manifests.path().join(name);
    for (from, to) in [("policies.yaml", "a.yaml"), ("a.yaml", "z.json.yml")] {
        fs::rename(path(from), path(to)).expect("a file can be renamed");
        scene.settle();
    }
    assert_eq!(scene.status()["mapWrites"], writes, "nothing is different");
    assert_eq!(scene.cuts(), 0);
    let mut question = Question::new(&scene, ENDS.0, ENDS.1);
    question.is(&scene, ENDS, true);
    fs::write(path("z.json.yml"), db(NOBODY)).expect("a file can be written in place");
    wait_until("the open connection is cut", SOON, || scene.cuts() > 0);
    question.is(&scene, ENDS, false);
    fs::remove_file(path("z.json.yml")).expect("a file can be removed");
    isolated_by(&scene, "shop/db", &[]);
    question.is(&scene, ENDS, true);
    // Without isolation its segments pass again, as those of any connection.
    assert!(busy.stop() > 0);
    scene.down();
}

#[test]
fn a_directory_that_goes_leaves_its_last_state_until_it_is_back() {
    let scene = Scene::up("feed-directory", &pods(), &db(NOBODY));
    let directory = scene.manifests.path().to_owned();
    let away = directory.with_extension("away");
    let mut question = Question::new(&scene, ENDS.0, ENDS.1);
    let troubled = |scene: &Scene| {
        let status = scene.status();
        let feeds = status["feeds"]
            .as_array()
            .expect("feeds are a list")
            .clone();
        feeds.iter().all(|feed| feed["trouble"].is_string())
    };
    fs::rename(&directory, &away).expect("a directory can be renamed");
    wait_until("the agent says so", SOON, || troubled(&scene));
    question.is(&scene, ENDS, false);
    // Another directory of that name, with other contents.
    fs::create_dir(&directory).expect("a directory can be made");
    for entry in fs::read_dir(&away).expect("it is still there") {
        let entry = entry.expect("it can be listed");
        fs::copy(entry.path(), directory.join(entry.file_name())).expect("a file can be copied");
    }
    scene.manifests.write("policies.yaml", &db(WEB));
    wait_until("it is read again", SOON, || !troubled(&scene));
    scene.settle();
    question.is(&scene, ENDS, true);
    // And it is followed again.
    scene.manifests.write("closed.yaml", &closed("closed"));
    isolated_by(&scene, "shop/web", &["shop/closed"]);
    fs::remove_dir_all(&away).expect("it can be removed");
    scene.down();
}

#[test]
fn a_mounted_config_map_is_followed_through_its_links() {
    let scene = Scene::up("feed-links", &pods(), "");
    let directory = scene.manifests.path();
    let version = |name: &str, text: &str| {
        fs::create_dir(directory.join(name)).expect("a directory can be made");
        fs::write(directory.join(name).join("policies.yaml"), text).expect("written");
        // As the kubelet does: the link to the data is replaced, those to files stay.
        symlink(name, directory.join("..data_tmp")).expect("a link can be made");
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).expect("and renamed");
    };
    scene.manifests.remove_file("policies.yaml");
    version("..1", &closed("one"));
    symlink("..data/policies.yaml", directory.join("policies.yaml")).expect("a link can be made");
    isolated_by(&scene, "shop/db", &["shop/one"]);
    version("..2", &closed("two"));
    isolated_by(&scene, "shop/db", &["shop/two"]);
    fs::remove_dir_all(directory.join("..1")).expect("it can be removed");
    version("..3", &db(WEB));
    isolated_by(&scene, "shop/db", &["shop/db"]);
    Question::new(&scene, ENDS.0, ENDS.1).is(&scene, ENDS, true);
    scene.down();
}
