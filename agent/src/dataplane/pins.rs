//! Where everything is pinned, whose it is, and how nothing of it stays.
//!
//! ```text
//! DIR/v1/owner marks in pc_owner      DIR/v1/maps/pc_*      DIR/v1/programs/pc_*      DIR/v1/links/IFINDEX_HOOK, cgroup_ID_HOOK
//! ```
//! The directory carries the ABI version, so maps of two versions never meet. A fresh agent without memory recognises an earlier one's work by
//! `pc_owner`: same boot, same network namespace. If that agent was of another version, it is a predecessor: its tables cannot be read, but its links
//! hold the node's hooks, and are inherited one by one when the new tables stand. Anything else there is discarded before something is attached.
//!
//! For that, three things are the same in every version: the directories above, the names of links, and the record `Owner`.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use portcullis_common::ABI_VERSION;
use portcullis_common::abi::Owner;

use super::error::OpenError;

/// `BPF_FS_MAGIC`.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// `SO_NETNS_COOKIE` (Linux 5.14).
const SO_NETNS_COOKIE: i32 = 71;

/// The pin directory of one agent.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
    version: PathBuf,
    /// Directories of other versions that hold this node's hooks.
    predecessors: Vec<PathBuf>,
}

impl Pins {
    /// The layout below `root`; touches nothing.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            version: root.join(version_name(ABI_VERSION)),
            predecessors: Vec::new(),
        }
    }

    /// Path of a map's pin.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.version.join("maps").join(name)
    }

    /// Path of a program's pin.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.version.join("programs").join(name)
    }

    /// Path of a link's pin. Names in a bpffs have no dots, so an interface goes by its index.
    #[must_use]
    pub fn link(&self, name: &str) -> PathBuf {
        self.version.join("links").join(name)
    }

    /// Names of all pinned links.
    #[must_use]
    pub fn links(&self) -> Vec<String> {
        entries(&self.version.join("links"))
    }

    /// Names of all pinned maps.
    #[must_use]
    pub fn maps(&self) -> Vec<String> {
        entries(&self.version.join("maps"))
    }

    /// Names of all pinned programs.
    #[must_use]
    pub fn programs(&self) -> Vec<String> {
        entries(&self.version.join("programs"))
    }

    /// Whether pins can lie here: the nearest ancestor that exists has to be in a bpffs.
    pub fn check(&self) -> Result<(), OpenError> {
        let parent = self
            .root
            .ancestors()
            .find(|path| path.exists())
            .unwrap_or(Path::new("/"));
        let kind = nix::sys::statfs::statfs(parent).map(|kind| kind.filesystem_type().0);
        if kind == Ok(BPF_FS_MAGIC) {
            return Ok(());
        }
        Err(OpenError::NoBpffs {
            root: self.root.clone(),
            parent: parent.to_owned(),
        })
    }

    /// Makes the directories. The parent of `root` has to lie in a bpffs.
    pub fn create(&self) -> Result<()> {
        self.check()?;
        for directory in ["maps", "programs", "links"] {
            let path = self.version.join(directory);
            fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        // Whoever may write here may switch the guard off.
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("closing {}", self.root.display()))
    }

    /// Keeps other agents off these pins for as long as the value lives; the kernel ends that with the process, however it ends.
    ///
    /// Two agents would each write the differences to tables that the other has changed.
    pub fn claim(&self) -> Result<Flock<File>> {
        self.check()?;
        fs::create_dir_all(&self.root)
            .with_context(|| format!("creating {}", self.root.display()))?;
        let directory =
            File::open(&self.root).with_context(|| format!("opening {}", self.root.display()))?;
        Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
            if errno == Errno::EWOULDBLOCK {
                let root = self.root.clone();
                return OpenError::Taken { root }.into();
            }
            anyhow::Error::new(errno).context(format!("locking {}", self.root.display()))
        })
    }

    /// Whose pins these are; `None` if there are none, or no mark.
    #[must_use]
    pub fn owner(&self) -> Option<Owner> {
        mark(&self.version)
    }

    /// Finds what agents of other versions left in force for `ours`, and discards everything that is not for it. How many pins that were.
    pub fn find_predecessors(&mut self, ours: Owner) -> Result<usize> {
        let mut count = 0;
        for name in entries(&self.root) {
            let directory = self.root.join(&name);
            let owner = mark(&directory).filter(|owner| {
                let wanted = Owner {
                    abi: owner.abi,
                    ..ours
                };
                *owner == wanted && name == version_name(owner.abi)
            });
            match owner {
                Some(owner) if owner.abi == ours.abi => {}
                Some(_) => self.predecessors.push(directory),
                None => count += remove_version(&directory)?,
            }
        }
        Ok(count)
    }

    /// Directories of other versions that hold this node's hooks, as far as they have been found.
    #[must_use]
    pub fn predecessors(&self) -> &[PathBuf] {
        &self.predecessors
    }

    /// Brings a link of that name here, if a predecessor has it. It stays on its hook meanwhile, with the program that it has.
    pub fn inherit(&self, link: &str) -> Result<()> {
        let here = self.link(link);
        for predecessor in &self.predecessors {
            let there = predecessor.join("links").join(link);
            if there.exists() && !here.exists() {
                fs::rename(&there, &here)
                    .with_context(|| format!("moving {} here", there.display()))?;
            }
        }
        Ok(())
    }

    /// Removes what predecessors still have. How many pins that were.
    pub fn discard_predecessors(&mut self) -> Result<usize> {
        let mut count = 0;
        while let Some(predecessor) = self.predecessors.last() {
            count += remove_version(predecessor)?;
            self.predecessors.pop();
        }
        Ok(count)
    }

    /// Removes every pin below the root, of whatever version. How many there were.
    pub fn discard(&self) -> Result<usize> {
        let versions = entries(&self.root).into_iter();
        versions
            .map(|name| remove_version(&self.root.join(name)))
            .sum()
    }

    /// Removes the root too, if it is empty.
    pub fn remove_root(&self) -> io::Result<()> {
        match fs::remove_dir(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn entries(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn version_name(abi: u32) -> String {
    format!("v{abi}")
}

/// Whose a version's pins are.
fn mark(version: &Path) -> Option<Owner> {
    let data = MapData::from_pin(version.join("maps").join("pc_owner")).ok()?;
    let map = Array::<_, Owner>::try_from(Map::Array(data)).ok()?;
    map.get(&0, 0).ok().filter(|owner| owner.abi != 0)
}

/// Removes a version's pins: links first, so that no program runs without its maps' names.
fn remove_version(version: &Path) -> Result<usize> {
    let mut count = 0;
    for directory in ["links", "programs", "maps"] {
        count += remove_all(&version.join(directory))?;
    }
    fs::remove_dir(version).with_context(|| format!("removing {}", version.display()))?;
    Ok(count)
}

fn remove_all(directory: &Path) -> Result<usize> {
    let names = entries(directory);
    for name in &names {
        let path = directory.join(name);
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    if directory.exists() {
        fs::remove_dir(directory).with_context(|| format!("removing {}", directory.display()))?;
    }
    Ok(names.len())
}

/// The mark of this boot and network namespace.
pub fn this_owner() -> Result<Owner> {
    let text =
        fs::read_to_string("/proc/sys/kernel/random/boot_id").context("reading the boot id")?;
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    let boot_id = u128::from_str_radix(&digits, 16)
        .context("reading the boot id")?
        .to_be_bytes();
    Ok(Owner {
        abi: ABI_VERSION,
        reserved: 0,
        netns_cookie: netns_cookie()?,
        boot_id,
    })
}

/// The cookie of the network namespace that this thread is in.
fn netns_cookie() -> Result<u64> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")
        .or_else(|_| std::net::UdpSocket::bind("[::]:0"))
        .context("opening a socket")?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option writes at most `length` bytes into `cookie`.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if failed != 0 {
        return Err(io::Error::last_os_error())
            .context("asking for the network namespace's cookie (Linux 5.14)");
    }
    Ok(cookie)
}
