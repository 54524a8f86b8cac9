//! What a node keeps in the kernel, by identity: pins, the ids behind them, the agent's descriptors.
//!
//! Ids are compared, not counts of the whole machine: others load and unload programs at any time. Nothing else can keep an object alive: it has a
//! pin, a descriptor, or is attached by a link that has one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Programs.
    Program,
    /// Maps.
    Map,
    /// Links.
    Link,
}

impl Kind {
    /// `BPF_PROG_GET_NEXT_ID` and its like (`enum bpf_cmd`).
    fn next_id(self) -> i64 {
        match self {
            Self::Program => 11,
            Self::Map => 12,
            Self::Link => 31,
        }
    }

    /// How `/proc/PID/fdinfo` spells the id, the most telling first: a link shows its program too.
    const SPELLINGS: [(Self, &str); 3] = [
        (Self::Link, "link_id:"),
        (Self::Map, "map_id:"),
        (Self::Program, "prog_id:"),
    ];
}

/// Whether an object lives. Ids grow, so one that is gone does not come back as another.
#[must_use]
pub fn lives(kind: Kind, id: u32) -> bool {
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        start_id: u32,
        next_id: u32,
        open_flags: u32,
    }
    let mut attributes = Attributes {
        start_id: id.saturating_sub(1),
        ..Attributes::default()
    };
    call(kind.next_id(), &mut attributes).is_ok() && attributes.next_id == id
}

/// Inode of every pin below a directory, by its path: the same number is the same pin.
#[must_use]
pub fn pins(directory: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => found.extend(pins(&path)),
            Ok(metadata) => {
                found.insert(path.display().to_string(), metadata.ino());
            }
            // Removed meanwhile.
            Err(_) => {}
        }
    }
    found
}

/// The objects behind all pins below a directory.
#[must_use]
pub fn pinned(directory: &Path) -> BTreeSet<(Kind, u32)> {
    let ids = pins(directory);
    ids.keys().map(|path| id_of(Path::new(path))).collect()
}

/// The object behind one pin.
#[must_use]
pub fn id_of(pin: &Path) -> (Kind, u32) {
    let object_fd = open(pin);
    let own = format!("/proc/self/fdinfo/{}", object_fd.as_raw_fd());
    object(&fs::read_to_string(own).expect("an open descriptor has its info"))
        .expect("a pin is a program, a map or a link")
}

/// A pinned program, as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Name of its pin.
    pub name: String,
    /// `enum bpf_prog_type`.
    pub kind: u32,
    /// Instructions that the verifier followed (Linux 5.16).
    pub verified: u32,
}

/// `BPF_PROG_TYPE_SCHED_CLS`.
pub const CLASSIFIER: u32 = 3;

/// Every program pinned in a directory, by name.
#[must_use]
pub fn programs(directory: &Path) -> Vec<Program> {
    let paths = pins(directory).into_keys().map(PathBuf::from);
    paths
        .map(|path| {
            let info = info(&path);
            let word = |at: usize| {
                let bytes = info[at..at + 4].try_into().expect("four bytes");
                u32::from_ne_bytes(bytes)
            };
            let name = path.file_name().expect("a pin has a name");
            Program {
                name: name.to_string_lossy().into_owned(),
                // Offsets of `type` and `verified_insns` in `struct bpf_prog_info`.
                kind: word(0),
                verified: word(216),
            }
        })
        .collect()
}

/// `struct bpf_prog_info` of a pinned program, zero behind what this kernel knows.
fn info(pin: &Path) -> [u8; 256] {
    #[repr(C)]
    struct Attributes {
        fd: u32,
        length: u32,
        info: u64,
    }
    const OBJ_GET_INFO_BY_FD: i64 = 15;
    let mut info = [0; 256];
    let program = open(pin);
    let mut attributes = Attributes {
        fd: program.as_raw_fd() as u32,
        length: info.len() as u32,
        info: info.as_mut_ptr() as u64,
    };
    call(OBJ_GET_INFO_BY_FD, &mut attributes)
        .unwrap_or_else(|error| panic!("{} tells nothing: {error}", pin.display()));
    info
}

/// The object behind a pin.
pub(super) fn open(pin: &Path) -> OwnedFd {
    #[repr(C)]
    struct Attributes {
        path: u64,
        fd: u32,
        flags: u32,
    }
    const OBJ_GET: i64 = 7;
    let path = CString::new(pin.as_os_str().as_bytes()).expect("a path has no zero byte");
    let mut attributes = Attributes {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    let fd = call(OBJ_GET, &mut attributes)
        .unwrap_or_else(|error| panic!("{} cannot be opened: {error}", pin.display()));
    // SAFETY: the kernel just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// The objects that a process holds by descriptors, each as often as it does.
#[must_use]
pub fn held(pid: i32) -> Vec<(Kind, u32)> {
    let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter();
    let infos = infos.flatten().flatten();
    let mut found: Vec<_> = infos
        .filter_map(|info| object(&fs::read_to_string(info.path()).ok()?))
        .collect();
    found.sort_unstable();
    found
}

/// Open descriptors of a process.
#[must_use]
pub fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Resident memory of a process, KiB.
#[must_use]
pub fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse().ok())
        .unwrap_or(0)
}

fn object(info: &str) -> Option<(Kind, u32)> {
    Kind::SPELLINGS.into_iter().find_map(|(kind, spelling)| {
        let id = info.lines().find_map(|line| line.strip_prefix(spelling))?;
        Some((kind, id.trim().parse().ok()?))
    })
}

/// Calls `bpf` with a command's attributes.
pub(super) fn call<T>(command: i64, attributes: &mut T) -> io::Result<i64> {
    // SAFETY: the value is whole, of that size, and outlives the call; so does what it points to, which is as long as the command takes it to be.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
