//! What the CNI plugins said when they wired a pod: libcni's result cache (`/var/lib/cni/results`), one file for each network attachment.
//!
//! The container runtime writes it before the pod's containers start, so it names the pod's uid, addresses and host interface earlier than the API
//! server does. The files are written in place, not by rename: a half-written one is garbage for a moment. It is reported only if it is still the
//! same at a later reading, and once. Fields that are not listed here mean nothing to us.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use serde::Deserialize;

/// Where libcni keeps it unless told otherwise.
pub const DEFAULT_DIRECTORY: &str = "/var/lib/cni/results";

/// Files larger than this are not a CNI result.
const MAX_FILE: u64 = 1 << 20;

/// One attachment of a pod to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniRecord {
    /// The pod's uid.
    pub uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The sandbox.
    pub container_id: String,
    /// Name of the network.
    pub network: String,
    /// Name of the interface inside the pod.
    pub interface: String,
    /// The host's end of it; `None` where the plugin made none (macvlan, SR-IOV, host-device).
    pub host_interface: Option<String>,
    /// The pod's addresses on it.
    pub addresses: Vec<IpAddr>,
    /// Path of the pod's cgroup below the hierarchy's root, where the runtime passes it to the plugins.
    pub cgroup_path: Option<String>,
    /// When the file was written: the newest record of two is the live one.
    pub written: SystemTime,
}

/// A file that is no record.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// The file cannot be read; check the mount of the cache directory.
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// Look at the file; another version of libcni, or another program's file.
    #[error("is no CNI result")]
    Parse(#[source] serde_json::Error),
    /// Larger than any result.
    #[error("is larger than 1 MiB")]
    Size,
}

/// The directory as last read.
#[derive(Debug)]
pub struct CniCache {
    directory: PathBuf,
    files: BTreeMap<OsString, File>,
}

#[derive(Debug)]
struct File {
    stamp: Stamp,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Record(Arc<CniRecord>),
    /// A result of something that is no pod.
    Foreign,
    Garbage {
        error: String,
        reported: bool,
    },
}

/// Tells one content of a file from the next. A half-written file and the whole one differ in length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    written: SystemTime,
}

impl CniCache {
    /// Reads nothing yet.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            files: BTreeMap::new(),
        }
    }

    /// The directory that is read.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads what is new. Returns files that are garbage for the second time running, each once, with the reason. A directory that is not there is
    /// an empty one.
    pub fn rescan(&mut self) -> Result<Vec<(String, String)>, io::Error> {
        let listing = match fs::read_dir(&self.directory) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.files.clear();
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        let mut files = BTreeMap::new();
        let mut garbage = Vec::new();
        for entry in listing {
            let name = entry?.file_name();
            let path = self.directory.join(&name);
            // Drafts of whoever writes by rename.
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            // Gone since the directory was listed, or not a file: nothing to say.
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            if !metadata.is_file() {
                continue;
            }
            let stamp = Stamp {
                inode: metadata.ino(),
                length: metadata.len(),
                written: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            };
            let file = match self.files.remove(&name) {
                Some(mut known) if known.stamp == stamp => {
                    if let Content::Garbage { error, reported } = &mut known.content
                        && !std::mem::replace(reported, true)
                    {
                        garbage.push((name.to_string_lossy().into_owned(), error.clone()));
                    }
                    known
                }
                _ => File {
                    stamp,
                    content: read(&path, &stamp),
                },
            };
            files.insert(name, file);
        }
        self.files = files;
        Ok(garbage)
    }

    /// Whether some file was garbage at its first reading and should be read again soon.
    #[must_use]
    pub fn doubtful(&self) -> bool {
        self.files.values().any(|file| {
            matches!(
                file.content,
                Content::Garbage {
                    reported: false,
                    ..
                }
            )
        })
    }

    /// All records, in the order of their files' names.
    pub fn records(&self) -> impl Iterator<Item = &Arc<CniRecord>> {
        self.files.values().filter_map(|file| match &file.content {
            Content::Record(record) => Some(record),
            Content::Foreign | Content::Garbage { .. } => None,
        })
    }
}

fn read(path: &Path, stamp: &Stamp) -> Content {
    let result = if stamp.length > MAX_FILE {
        Err(CniError::Size)
    } else {
        fs::read(path)
            .map_err(CniError::Read)
            .and_then(|bytes| parse(&bytes, stamp.written))
    };
    match result {
        Ok(Some(record)) => Content::Record(Arc::new(record)),
        Ok(None) => Content::Foreign,
        Err(error) => {
            let source = std::error::Error::source(&error)
                .map(|source| format!(": {source}"))
                .unwrap_or_default();
            Content::Garbage {
                error: format!("{error}{source}"),
                reported: false,
            }
        }
    }
}

/// A record from the bytes of a cache file; `None` if it is the result of something that is no pod.
pub fn parse(bytes: &[u8], written: SystemTime) -> Result<Option<CniRecord>, CniError> {
    let cached: Cached = serde_json::from_slice(bytes).map_err(CniError::Parse)?;
    let arguments = cached.cni_args.unwrap_or_default();
    let argument = |name: &str| {
        arguments
            .iter()
            .find(|pair| pair.first().is_some_and(|key| key == name))
            .and_then(|pair| pair.get(1))
    };
    let (Some(uid), Some(namespace), Some(name)) = (
        argument("K8S_POD_UID"),
        argument("K8S_POD_NAMESPACE"),
        argument("K8S_POD_NAME"),
    ) else {
        return Ok(None);
    };
    let interfaces = cached.result.interfaces.unwrap_or_default();
    let cgroup_path = cached
        .capability_args
        .and_then(|args| Some(args.get("cgroupPath")?.as_str()?.to_owned()));
    Ok(Some(CniRecord {
        uid: uid.clone(),
        namespace: namespace.clone(),
        name: name.clone(),
        container_id: cached.container_id,
        network: cached.network_name,
        interface: cached.if_name,
        host_interface: host_interface(&interfaces),
        addresses: addresses(&interfaces, &cached.result.ips.unwrap_or_default()),
        cgroup_path: cgroup_path.filter(|path| !path.is_empty()),
        written,
    }))
}

/// The host's end: the last interface without a sandbox before the pod's own. The bridge plugin lists the bridge before it, others list theirs
/// (ifb, the VPC CNI's note to itself) behind the pod's.
fn host_interface(interfaces: &[Interface]) -> Option<String> {
    let inside = interfaces
        .iter()
        .position(Interface::inside)
        .unwrap_or(interfaces.len());
    interfaces[..inside]
        .iter()
        .rev()
        .map(|interface| interface.name.clone())
        .find(|name| !name.is_empty())
}

/// Addresses of the pod's own interfaces; a result without indices lists nothing else.
fn addresses(interfaces: &[Interface], ips: &[Address]) -> Vec<IpAddr> {
    let inside = |ip: &Address| {
        let index = ip.interface.and_then(|index| usize::try_from(index).ok());
        let interface = index.and_then(|index| interfaces.get(index));
        interface.is_none_or(Interface::inside) || !interfaces.iter().any(Interface::inside)
    };
    let mut addresses: Vec<IpAddr> = ips
        .iter()
        .filter(|ip| inside(ip))
        .map(|ip| ip.address.addr())
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    #[serde(default)]
    container_id: String,
    #[serde(default)]
    if_name: String,
    #[serde(default)]
    network_name: String,
    cni_args: Option<Vec<Vec<String>>>,
    capability_args: Option<serde_json::Value>,
    result: CniResult,
}

#[derive(Deserialize)]
struct CniResult {
    interfaces: Option<Vec<Interface>>,
    ips: Option<Vec<Address>>,
}

#[derive(Deserialize)]
struct Interface {
    #[serde(default)]
    name: String,
    sandbox: Option<String>,
}

impl Interface {
    fn inside(&self) -> bool {
        self.sandbox
            .as_ref()
            .is_some_and(|sandbox| !sandbox.is_empty())
    }
}

#[derive(Deserialize)]
struct Address {
    address: IpNet,
    interface: Option<i64>,
}

#[cfg(test)]
mod tests;
