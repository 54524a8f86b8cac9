//! The programs of the cluster: Go modules built once into the cache, Debian packages for the rest.
//!
//! What is built is pinned by go.mod and go.sum of a folder of tests/cluster. A folder of the cache bears
//! the module's version and holds its recipe; another recipe is built anew beside it and takes its place
//! when it is whole.

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::daemon::create;
use crate::command::{quiet, say};
use crate::failure::Failure;
use crate::layout::{self, Layout};
use crate::setup::{self, Tool};

const MODULES: &[Module] = &[
    Module {
        folder: "kubernetes",
        programs: &[
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            (
                "kube-controller-manager",
                "k8s.io/kubernetes/cmd/kube-controller-manager",
            ),
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
            ("agnhost", "."),
            (E2E, "k8s.io/kubernetes/test/e2e"),
        ],
    },
    Module {
        folder: "containerd",
        programs: &[
            (
                "containerd",
                "github.com/containerd/containerd/v2/cmd/containerd",
            ),
            (
                "containerd-shim-runc-v2",
                "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            ),
            ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
        ],
    },
    Module {
        folder: "coredns",
        programs: &[("coredns", ".")],
    },
    Module {
        folder: "cyclonus",
        programs: &[("cyclonus", "."), ("worker", "./worker")],
    },
];

/// A package of tests, which `go test` compiles into a program.
const E2E: &str = "e2e.test";

/// What the machine must have beside a Go toolchain.
const TOOLS: &[Tool] = &[
    Tool {
        command: "cc",
        package: "build-essential",
    },
    Tool {
        command: "ip",
        package: "iproute2",
    },
    Tool {
        command: "iptables",
        package: "iptables",
    },
    Tool {
        command: "nft",
        package: "nftables",
    },
    Tool {
        command: "nsenter",
        package: "util-linux",
    },
    Tool {
        command: "openssl",
        package: "openssl",
    },
];

/// Programs of Debian packages that would start a service or stay for no other use: not installed, only
/// unpacked. A program and its folders, as installed.
const PACKAGES: &[(&str, &str, &[&str])] = &[
    ("etcd", "etcd-server", &["usr/bin"]),
    ("runc", "runc", &["usr/sbin", "usr/bin"]),
    (
        "ptp",
        "containernetworking-plugins",
        &["usr/lib/cni", "opt/cni/bin"],
    ),
];

struct Module {
    /// Below tests/cluster.
    folder: &'static str,
    /// Name and package.
    programs: &'static [(&'static str, &'static str)],
}

/// Folders of programs, in the order in which they are searched.
pub(crate) struct Programs {
    pub(crate) folders: Vec<PathBuf>,
}

/// Finds or builds everything.
pub(crate) fn ready(layout: &Layout) -> Result<Programs> {
    setup::ensure(TOOLS, "the cluster")?;
    let mut folders = Vec::new();
    {
        let _lock = lock()?;
        let mut announced = false;
        for module in MODULES {
            let recipe = Recipe::read(layout, module)?;
            let folder = cache().join(format!("{}-{}", module.folder, recipe.version));
            let built = fs::read_to_string(folder.join("recipe")).unwrap_or_default();
            if built != recipe.text {
                if !announced {
                    need_go()?;
                    say(
                        "Building Kubernetes, containerd, CoreDNS and Cyclonus: about 14 minutes the first time on two processors",
                    );
                    announced = true;
                }
                recipe.build(module, &folder)?;
            }
            folders.push(folder);
        }
    }
    for (program, package, places) in PACKAGES {
        folders.push(packaged(program, package, places)?);
    }
    Ok(Programs { folders })
}

impl Programs {
    /// A search path: these folders, then the person's, then those where root's programs are.
    pub(crate) fn path(&self) -> Result<OsString> {
        let inherited = env::var_os("PATH").unwrap_or_default();
        let folders = self
            .folders
            .iter()
            .cloned()
            .chain(env::split_paths(&inherited))
            .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from));
        env::join_paths(folders).context("a folder's name has a colon")
    }

    pub(crate) fn find(&self, program: &str) -> Result<PathBuf> {
        self.folders
            .iter()
            .map(|folder| folder.join(program))
            .find(|file| file.is_file())
            .with_context(|| format!("{program} was not built"))
    }

    /// Where the CNI plugins are.
    pub(crate) fn plugins(&self) -> Result<PathBuf> {
        let ptp = self.find("ptp")?;
        Ok(ptp
            .parent()
            .context("a program lies in a folder")?
            .to_owned())
    }
}

/// Where everything that is built lies.
pub(crate) fn cache() -> PathBuf {
    layout::cache().join("cluster")
}

/// Whoever holds the file may change the cache; the lock ends with the process.
pub(crate) fn lock() -> Result<File> {
    create(&cache())?;
    let path = cache().join("lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    if file.try_lock().is_err() {
        say("Another build for the cluster is at work; waiting for its end");
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// What a module's programs are made of.
struct Recipe {
    version: String,
    flags: String,
    source: PathBuf,
    text: String,
}

impl Recipe {
    fn read(layout: &Layout, module: &Module) -> Result<Self> {
        let source = layout.root.join("tests/cluster").join(module.folder);
        let read = |name: &str| {
            let path = source.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let manifest = read("go.mod")?;
        let version = required(&manifest)
            .with_context(|| format!("{} requires nothing", source.join("go.mod").display()))?
            .to_owned();
        let flags = flags(module.folder, &version);
        let mut text = format!("flags {flags}\n{manifest}{}", read("go.sum")?);
        for (name, package) in module.programs {
            writeln!(text, "{name} {package}")?;
            if package.starts_with('.') {
                text += &read(&format!("{package}/main.go"))?;
            }
        }
        Ok(Self {
            version,
            flags,
            source,
            text,
        })
    }

    fn build(&self, module: &Module, folder: &Path) -> Result<()> {
        let part = folder.with_file_name(format!("{}.part", module.folder));
        remove(&part)?;
        create(&part)?;
        for (name, package) in module.programs {
            let started = Instant::now();
            let mut go = Command::new("go");
            if *name == E2E {
                go.args(["test", "-c"]);
            } else {
                go.arg("build");
            }
            go.current_dir(&self.source)
                // Static programs, of the pinned modules alone.
                .env("CGO_ENABLED", "0")
                .env("GOWORK", "off")
                .args([
                    "-mod=readonly",
                    "-buildvcs=false",
                    "-ldflags",
                    &self.flags,
                    "-o",
                ])
                .arg(part.join(name))
                .arg(package);
            quiet(&mut go, &format!("build {name}"))?;
            say(&format!(
                "  {name} {}: {} s",
                self.version,
                started.elapsed().as_secs()
            ));
        }
        fs::write(part.join("recipe"), &self.text)
            .with_context(|| format!("cannot write {}", part.join("recipe").display()))?;
        remove(folder)?;
        fs::rename(&part, folder).with_context(|| format!("cannot create {}", folder.display()))
    }
}

/// The version of the first module that a go.mod requires: the one that the folder is for.
fn required(manifest: &str) -> Option<&str> {
    manifest
        .lines()
        .find_map(|line| line.strip_prefix("require ")?.split_whitespace().nth(1))
}

/// Some programs are told their version by the linker; Kubernetes' refuse each other without.
fn flags(folder: &str, version: &str) -> String {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"));
    let told: &[(&str, &str)] = match folder {
        "kubernetes" => &[
            ("k8s.io/component-base/version.gitVersion", version),
            ("k8s.io/component-base/version.gitMajor", major),
            ("k8s.io/component-base/version.gitMinor", minor),
        ],
        "cyclonus" => &[("github.com/mattfenwick/cyclonus/pkg/cli.version", version)],
        _ => &[],
    };
    let mut flags = "-s -w".to_owned();
    for (name, value) in told {
        let _ = write!(flags, " -X {name}={value}");
    }
    flags
}

fn need_go() -> Result<()> {
    if setup::find("go").is_some() {
        return Ok(());
    }
    Err(Failure::new(
        "cannot build the cluster's programs",
        "there is no `go` on the PATH, and Debian's is too old",
        "install Go 1.26.6 or newer from https://go.dev/dl",
    )
    .into())
}

/// The folder with a package's programs: where it is installed, or unpacked.
fn packaged(program: &str, package: &str, places: &[&str]) -> Result<PathBuf> {
    let within = |root: &Path| {
        places
            .iter()
            .map(|place| root.join(place))
            .find(|folder| folder.join(program).is_file())
    };
    if let Some(folder) = within(Path::new("/")) {
        return Ok(folder);
    }
    within(&setup::unpack(package, "the cluster")?)
        .with_context(|| format!("{package} holds no {program}"))
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_has_the_version_that_its_go_mod_requires_first() {
        let manifest = "module a.test/b\n\ngo 1.26.0\n\nrequire k8s.io/kubernetes v1.36.1\n\n\
                        require (\n\tcel.dev/expr v0.25.1 // indirect\n)\n";
        assert_eq!(required(manifest), Some("v1.36.1"));
        assert!(flags("kubernetes", "v1.36.1").ends_with("version.gitMinor=36"));
        assert_eq!(flags("coredns", "v1.15.0"), "-s -w");
    }
}
