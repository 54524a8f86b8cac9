//! The token of a pod, found among the files of its projected volumes.
//!
//! Names come from the kubelet, contents from the kubelet too; still nothing is followed out of a volume (`openat2`, Linux 5.6): a link that a pod managed to
//! leave there leads nowhere.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use portcullis_imds::jwt;
use portcullis_imds::secret::Secret;

/// Volumes in which webhooks put tokens, first.
const FIRST: [&str; 2] = ["aws-iam-token", "eks-pod-identity-token"];
/// A token is shorter.
const MOST_BYTES: u64 = 16 * 1024;
/// Of a pod.
const MOST_VOLUMES: usize = 64;
/// Of a volume.
const MOST_FILES: usize = 64;
/// Directories in a volume: paths of projections may have slashes.
const DEEPEST: usize = 3;

/// What a pod's uid may be: no path.
pub(super) fn is_uid(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Where the volumes of a pod are.
pub(super) fn of_pod(pod_uid: &str) -> PathBuf {
    Path::new(pod_uid).join("volumes/kubernetes.io~projected")
}

/// The pod's token for this audience, if a volume holds one that is good now.
pub(super) fn find(pods: &OwnedFd, pod_uid: &str, audience: &str) -> Option<Secret> {
    if !is_uid(pod_uid) {
        return None;
    }
    let volumes = open_directory(pods, &of_pod(pod_uid), ResolveFlag::RESOLVE_NO_SYMLINKS).ok()?;
    let mut names = names(&volumes);
    names.sort_by_key(|name| {
        let first = FIRST.iter().position(|first| Path::new(first) == name);
        (first.unwrap_or(FIRST.len()), name.clone())
    });
    let wanted = |token: &str| {
        jwt::claims(token).is_ok_and(|claims| {
            claims.is_for(audience)
                && claims.pod_uid() == Some(pod_uid)
                && claims.is_in_time(Timestamp::now())
        })
    };
    names.into_iter().take(MOST_VOLUMES).find_map(|name| {
        let volume = open_directory(&volumes, &name, ResolveFlag::RESOLVE_NO_SYMLINKS).ok()?;
        let mut left = MOST_FILES;
        search(&volume, &volume, Path::new(""), 0, &mut left, &wanted)
    })
}

/// Looks through a directory of a volume. Every file is opened from the volume itself, so that links may lead about in it (`token -> ..data/token`).
fn search(
    volume: &OwnedFd,
    directory: &OwnedFd,
    path: &Path,
    depth: usize,
    left: &mut usize,
    wanted: &impl Fn(&str) -> bool,
) -> Option<Secret> {
    let mut names = names(directory);
    names.sort();
    for name in names {
        // The kubelet's own: every version of the files, under names that change.
        if name.to_string_lossy().starts_with("..") {
            continue;
        }
        *left = left.checked_sub(1)?;
        let path = path.join(name);
        if let Ok(inner) = open_directory(volume, &path, ResolveFlag::empty()) {
            if depth < DEEPEST
                && let Some(found) = search(volume, &inner, &path, depth + 1, left, wanted)
            {
                return Some(found);
            }
        } else if let Some(token) = read(volume, &path)
            && wanted(token.expose())
        {
            return Some(token);
        }
    }
    None
}

fn open(at: &OwnedFd, path: &Path, flags: OFlag, resolve: ResolveFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS | resolve);
    openat2(at, path, how)
}

fn open_directory(at: &OwnedFd, path: &Path, resolve: ResolveFlag) -> Result<OwnedFd, Errno> {
    open(at, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, resolve)
}

/// A text that is short enough to be a token.
fn read(volume: &OwnedFd, path: &Path) -> Option<Secret> {
    let file = File::from(open(volume, path, OFlag::O_RDONLY, ResolveFlag::empty()).ok()?);
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > MOST_BYTES {
        return None;
    }
    let mut text = String::with_capacity(MOST_BYTES as usize);
    file.take(MOST_BYTES).read_to_string(&mut text).ok()?;
    let whole = Secret::new(text);
    let trimmed = whole.expose().trim();
    Some(Secret::new(trimmed.to_owned()))
}

/// What an open directory holds, by the descriptor: a path could be another directory by now.
fn names(directory: &OwnedFd) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd())) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.file_name().into())
        .collect()
}
