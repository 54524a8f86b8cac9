//! The images that every node has: made of a few static programs each, by our own hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::programs::{self, Programs};
use crate::command::{quiet, say};
use crate::guest;
use crate::layout::Layout;
use crate::oci::{Image, Layer, architecture};

/// The image that containerd runs in each pod; as in the kubelet's default of this release.
pub(crate) const PAUSE: &str = "registry.k8s.io/pause:3.10.2";

/// Programs of the box that people may want to call by their own names.
const APPLETS: &[&str] = &[
    "awk",
    "cat",
    "date",
    "echo",
    "env",
    "grep",
    "head",
    "httpd",
    "id",
    "ifconfig",
    "ip",
    "kill",
    "ls",
    "mkdir",
    "nc",
    "nslookup",
    "ping",
    "ping6",
    "ps",
    "rm",
    "route",
    "sed",
    "sh",
    "sleep",
    "sort",
    "tail",
    "timeout",
    "top",
    "traceroute",
    "true",
    "wget",
];

/// It waits, and reaps what is left to it as the first process of a pod's process namespace.
const PAUSE_SOURCE: &str = r"#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int number) { (void)number; _exit(0); }
static void reap(int number) { (void)number; while (waitpid(-1, NULL, WNOHANG) > 0) {} }
int main(void) {
    signal(SIGINT, end);
    signal(SIGTERM, end);
    signal(SIGCHLD, reap);
    for (;;) pause();
}
";

/// Names and content of an image.
struct Recipe {
    file: &'static str,
    names: &'static [&'static str],
    /// The first is its entry point.
    programs: &'static [&'static str],
    arguments: &'static [&'static str],
    /// Whether the box's programs are in it too.
    boxed: bool,
}

const RECIPES: &[Recipe] = &[
    Recipe {
        file: "pause",
        names: &[PAUSE, "registry.k8s.io/pause:3.10.1"],
        programs: &["pause"],
        arguments: &[],
        boxed: false,
    },
    Recipe {
        file: "box",
        names: &["cluster.test/box:1"],
        programs: &[],
        arguments: &["/bin/sh", "-c", "trap exit TERM; sleep 1000000 & wait"],
        boxed: true,
    },
    Recipe {
        file: "agnhost",
        // The tags of test/utils/image/manifest.go, and what Cyclonus asks for.
        names: &[
            "registry.k8s.io/e2e-test-images/agnhost:2.63.0",
            "registry.k8s.io/e2e-test-images/agnhost:2.55",
            "docker.io/mfenwick100/cyclonus-worker:latest",
        ],
        programs: &["agnhost", "worker"],
        arguments: &[],
        boxed: true,
    },
    Recipe {
        file: "coredns",
        names: &["cluster.test/coredns:1"],
        programs: &["coredns"],
        arguments: &[],
        boxed: false,
    },
];

/// The images' files; those that are older than their programs are made anew.
pub(crate) fn ready(layout: &Layout, programs: &Programs) -> Result<Vec<PathBuf>> {
    let _lock = programs::lock()?;
    let folder = programs::cache().join("images");
    let pause = pause(&folder)?;
    let busybox = guest::busybox("the cluster's images")?;
    let mut files = Vec::new();
    for recipe in RECIPES {
        let content: Vec<PathBuf> = recipe
            .programs
            .iter()
            .map(|name| match *name {
                "pause" => Ok(pause.clone()),
                name => programs.find(name),
            })
            .collect::<Result<_>>()?;
        let path = folder.join(format!("{}.tar", recipe.file));
        let made_of = format!(
            "{:?} {:?} {APPLETS:?} {:?}",
            recipe.names, recipe.arguments, content
        );
        let note = path.with_extension("recipe");
        let fresh = content.iter().all(|program| is_newer(&path, program))
            && path.exists()
            && fs::read_to_string(&note).is_ok_and(|text| text == made_of);
        if !fresh {
            recipe.make(layout, &content, &busybox, &path)?;
            fs::write(&note, made_of)
                .with_context(|| format!("cannot write {}", note.display()))?;
            say(&format!("  image {}", recipe.names[0]));
        }
        files.push(path);
    }
    Ok(files)
}

impl Recipe {
    fn make(
        &self,
        layout: &Layout,
        content: &[PathBuf],
        busybox: &Path,
        path: &Path,
    ) -> Result<()> {
        let mut layer = Layer::default();
        let mut entrypoint: Vec<String> = self.arguments.iter().map(ToString::to_string).collect();
        for (name, file) in self.programs.iter().zip(content) {
            layer.copy(name, 0o755, file)?;
        }
        if let Some(name) = self.programs.first() {
            entrypoint.insert(0, format!("/{name}"));
        }
        layer.directory("tmp", 0o1777);
        if self.boxed {
            layer.copy("bin/busybox", 0o755, busybox)?;
            for applet in APPLETS {
                layer.link(&format!("bin/{applet}"), "busybox");
            }
        }
        let image = Image {
            names: self.names.iter().map(ToString::to_string).collect(),
            architecture: architecture(&layout.host).to_owned(),
            entrypoint,
            env: vec!["PATH=/bin:/".to_owned()],
            layers: vec![layer],
            ..Image::default()
        };
        image.write(path, 0)?;
        Ok(())
    }
}

fn is_newer(file: &Path, than: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path)?.modified();
    matches!((modified(file), modified(than)), (Ok(file), Ok(than)) if file >= than)
}

fn pause(folder: &Path) -> Result<PathBuf> {
    let program = folder.join("pause");
    let source = folder.join("pause.c");
    if program.exists() && fs::read_to_string(&source).is_ok_and(|text| text == PAUSE_SOURCE) {
        return Ok(program);
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let _ = fs::remove_file(&program);
    fs::write(&source, PAUSE_SOURCE)
        .with_context(|| format!("cannot write {}", source.display()))?;
    let mut cc = Command::new("cc");
    cc.args(["-static", "-Os", "-s", "-o"])
        .arg(&program)
        .arg(&source);
    quiet(&mut cc, "compile pause")?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::names::DNS_SERVICE;

    #[test]
    fn the_name_service_has_the_address_and_the_image_that_nodes_know() {
        let objects = include_str!("../../../tests/cluster/coredns/objects.yaml");
        assert!(objects.contains(&format!("clusterIP: {DNS_SERVICE}\n")));
        let image = objects
            .lines()
            .find_map(|line| line.trim().strip_prefix("image: "))
            .expect("it names an image");
        assert!(RECIPES.iter().any(|recipe| recipe.names.contains(&image)));
    }
}
