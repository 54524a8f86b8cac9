//! The pods' cgroup: where the programs for hostNetwork pods are attached, and which cgroup is which pod.
//!
//! ```text
//! cgroupfs driver  <root>/kubepods/{,besteffort/,burstable/}pod<uid>
//! systemd driver   <root>/kubepods.slice/{,kubepods-burstable.slice/}kubepods[-burstable]-pod<uid with _>.slice
//! ```
//! `<root>` is the hierarchy's root or some way below it (the kubelet's `cgroupRoot`, nested kubelets). Only cgroup v2 has ids that a packet carries.
//! Without a pods' cgroup the hooks for hostNetwork pods are off; that is a state to report, no error.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// Where cgroup2 is mounted: alone, or beside the v1 hierarchies.
pub const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// How far below the hierarchy's root the pods' cgroup is looked for.
const DEPTH: u32 = 4;

/// Inode, and so the id, of the root cgroup; any other at a mount's top means that only a part of the hierarchy is mounted.
const ROOT_ID: u64 = 1;

/// The pods' parent cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodCgroup {
    /// Its directory.
    pub path: PathBuf,
    /// Its id, as `bpf_skb_ancestor_cgroup_id` returns it.
    pub id: u64,
    /// Its distance from the root cgroup, as `bpf_skb_ancestor_cgroup_id` counts levels.
    pub level: u32,
}

impl PodCgroup {
    /// The cgroup above it, in which the kubelet's pods and, on a real node, the node's own processes live: the host cgroup (design 1).
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let path = self.path.parent()?.to_owned();
        let id = fs::metadata(&path).ok()?.ino();
        Some(Self {
            path,
            id,
            level: self.level.checked_sub(1)?,
        })
    }
}

/// There is no cgroup to attach to.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Boot with the unified hierarchy; on cgroup v1 the raw-frame protection of hostNetwork pods is degraded.
    #[error("no cgroup2 hierarchy is mounted")]
    NoCgroup2,
    /// Mount the host's /sys/fs/cgroup into the agent's container.
    #[error("{} is not the root of the cgroup2 hierarchy", .0.display())]
    Partial(PathBuf),
    /// No kubelet runs here, or its cgroup has another name: give it with `--pod-cgroup`.
    #[error("no kubepods cgroup found below {}", .0.display())]
    NotFound(PathBuf),
    /// Several kubelets share the machine: say which one's with `--pod-cgroup`.
    #[error("several kubepods cgroups: {} and {}", .0.display(), .1.display())]
    Ambiguous(PathBuf, PathBuf),
    /// The directory given with `--pod-cgroup` is no cgroup of the hierarchy.
    #[error("{} is no cgroup2 directory", .path.display())]
    Unusable {
        /// What was given.
        path: PathBuf,
        /// What the system said, if it was the system.
        #[source]
        source: Option<io::Error>,
    },
}

/// Finds the pods' cgroup. `given` is `--pod-cgroup`; `own_uid` is the uid of the agent's own pod, which tells one kubelet's cgroup from another's.
pub fn find(given: Option<&Path>, own_uid: Option<&str>) -> Result<PodCgroup, CgroupError> {
    let root = MOUNTS
        .iter()
        .map(Path::new)
        .find(|path| is_cgroup2(path))
        .ok_or(CgroupError::NoCgroup2)?;
    if !fs::metadata(root).is_ok_and(|metadata| metadata.ino() == ROOT_ID) {
        return Err(CgroupError::Partial(root.to_owned()));
    }
    match given {
        Some(path) => describe(root, &absolute(root, path)),
        None => describe(root, &search(root, own_uid)?),
    }
}

/// Cgroup ids of all pods below the pods' cgroup, by uid. Costs one listing for each quality-of-service class.
#[must_use]
pub fn pod_cgroups(parent: &PodCgroup) -> BTreeMap<String, u64> {
    let mut pods = BTreeMap::new();
    for (path, name) in directories(&parent.path) {
        if let Some(uid) = pod_uid(&name) {
            pods.extend(fs::metadata(&path).map(|metadata| (uid, metadata.ino())));
        } else if is_class(&name) {
            for (path, name) in directories(&path) {
                if let Some(uid) = pod_uid(&name) {
                    pods.extend(fs::metadata(&path).map(|metadata| (uid, metadata.ino())));
                }
            }
        }
    }
    pods
}

/// A path as given by `--pod-cgroup`: a directory, or the cgroup's path within the hierarchy as /proc/PID/cgroup shows it.
fn absolute(root: &Path, given: &Path) -> PathBuf {
    if given.starts_with(root) {
        return given.to_owned();
    }
    root.join(given.strip_prefix("/").unwrap_or(given))
}

fn describe(root: &Path, path: &Path) -> Result<PodCgroup, CgroupError> {
    let unusable = |source| CgroupError::Unusable {
        path: path.to_owned(),
        source,
    };
    let path = path
        .canonicalize()
        .map_err(|source| unusable(Some(source)))?;
    let metadata = fs::metadata(&path).map_err(|source| unusable(Some(source)))?;
    let level = path
        .strip_prefix(root)
        .ok()
        .and_then(|below| u32::try_from(below.components().count()).ok());
    match level {
        Some(level) if metadata.is_dir() && is_cgroup2(&path) => Ok(PodCgroup {
            id: metadata.ino(),
            level,
            path,
        }),
        _ => Err(unusable(None)),
    }
}

fn search(root: &Path, own_uid: Option<&str>) -> Result<PathBuf, CgroupError> {
    let mut found = Vec::new();
    let mut level = vec![root.to_owned()];
    for _ in 0..DEPTH {
        let mut next = Vec::new();
        for directory in level {
            for (path, name) in directories(&directory) {
                if is_pods(&name) {
                    found.push(path);
                } else {
                    next.push(path);
                }
            }
        }
        level = next;
    }
    found.sort_unstable();
    if let Some(uid) = own_uid {
        let holds = |path: &&PathBuf| {
            let parent = PodCgroup {
                path: (*path).clone(),
                id: 0,
                level: 0,
            };
            pod_cgroups(&parent).contains_key(uid)
        };
        if let Some(own) = found.iter().find(holds) {
            return Ok(own.clone());
        }
    }
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (None, _) => Err(CgroupError::NotFound(root.to_owned())),
        (Some(one), None) => Ok(one),
        (Some(one), Some(other)) => Err(CgroupError::Ambiguous(one, other)),
    }
}

/// `kubepods`, `kubepods.slice`, or `PREFIX-kubepods.slice` below a slice of systemd's.
fn is_pods(name: &str) -> bool {
    name == "kubepods" || name == "kubepods.slice" || name.ends_with("-kubepods.slice")
}

fn is_class(name: &str) -> bool {
    matches!(name, "besteffort" | "burstable")
        || name.ends_with("kubepods-besteffort.slice")
        || name.ends_with("kubepods-burstable.slice")
}

/// The uid in the name of a pod's cgroup. systemd takes no `-` within a slice's name, so the kubelet writes `_`.
fn pod_uid(name: &str) -> Option<String> {
    if let Some(slice) = name.strip_suffix(".slice") {
        let (_, uid) = slice.rsplit_once("-pod")?;
        return (slice.contains("kubepods") && !uid.is_empty()).then(|| uid.replace('_', "-"));
    }
    name.strip_prefix("pod")
        .filter(|uid| !uid.is_empty())
        .map(str::to_owned)
}

/// Subdirectories; none if they cannot be listed (the cgroup went away).
fn directories(path: &Path) -> Vec<(PathBuf, String)> {
    let Ok(listing) = fs::read_dir(path) else {
        return Vec::new();
    };
    listing
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| Some((entry.path(), entry.file_name().into_string().ok()?)))
        .collect()
}

fn is_cgroup2(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::scratch::Scratch;

    const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";

    fn tree(scratch: &Scratch, paths: &[&str]) {
        for path in paths {
            fs::create_dir_all(scratch.path().join(path)).unwrap();
        }
    }

    fn uids(path: &Path) -> Vec<String> {
        pod_cgroups(&PodCgroup {
            path: path.to_owned(),
            id: 0,
            level: 0,
        })
        .into_keys()
        .collect()
    }

    #[test]
    fn pods_of_all_classes_are_found_with_the_cgroupfs_driver() {
        let scratch = Scratch::new("cgroupfs");
        tree(
            &scratch,
            &[
                "kubepods/poda-1/container",
                "kubepods/burstable/podb-2",
                "kubepods/besteffort/podc-3",
                "kubepods/x",
            ],
        );
        assert_eq!(
            uids(&scratch.path().join("kubepods")),
            ["a-1", "b-2", "c-3"]
        );
    }

    #[test]
    fn pods_of_all_classes_are_found_with_the_systemd_driver() {
        let scratch = Scratch::new("systemd");
        let name = UID.replace('-', "_");
        tree(
            &scratch,
            &[
                &format!("kubepods.slice/kubepods-pod{name}.slice/cri-containerd-x.scope"),
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podb_2.slice",
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podc_3.slice",
            ],
        );
        assert_eq!(
            uids(&scratch.path().join("kubepods.slice")),
            [UID, "b-2", "c-3"]
        );
        tree(
            &scratch,
            &[
                "k/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podd_4.slice",
            ],
        );
        assert_eq!(
            uids(&scratch.path().join("k/kubelet-kubepods.slice")),
            ["d-4"]
        );
    }

    #[test]
    fn the_pods_cgroup_is_found_below_a_root_of_its_own() {
        let scratch = Scratch::new("search");
        tree(&scratch, &["system.slice/a", "pccI/kubepods/burstable"]);
        assert_eq!(
            search(scratch.path(), None).unwrap(),
            scratch.path().join("pccI/kubepods")
        );
    }

    #[test]
    fn of_several_the_one_with_the_agents_own_pod_is_taken() {
        let scratch = Scratch::new("several");
        tree(
            &scratch,
            &["one/kubepods/besteffort/poda-1", "two/kubepods/podb-2"],
        );
        assert!(matches!(
            search(scratch.path(), None),
            Err(CgroupError::Ambiguous(..))
        ));
        assert!(matches!(
            search(scratch.path(), Some("zz")),
            Err(CgroupError::Ambiguous(..))
        ));
        assert_eq!(
            search(scratch.path(), Some("b-2")).unwrap(),
            scratch.path().join("two/kubepods")
        );
    }

    #[test]
    fn nothing_found_is_told_apart_from_nothing_mounted() {
        let scratch = Scratch::new("nothing");
        assert!(matches!(
            search(scratch.path(), None),
            Err(CgroupError::NotFound(_))
        ));
        assert!(!is_cgroup2(scratch.path()));
    }

    #[test]
    fn paths_may_be_given_as_proc_shows_them() {
        let root = Path::new("/sys/fs/cgroup/unified");
        assert_eq!(
            absolute(root, Path::new("/pccI/kubepods")),
            root.join("pccI/kubepods")
        );
        assert_eq!(
            absolute(root, &root.join("kubepods")),
            root.join("kubepods")
        );
        assert_eq!(absolute(root, Path::new("kubepods")), root.join("kubepods"));
    }
}
