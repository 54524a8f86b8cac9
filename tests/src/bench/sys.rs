//! The `bpf` calls of the benchmark on plain descriptors, so that programs of the object and hand-assembled ones are treated alike.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_info};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::program::Insn;

/// Size and fields of `struct __sk_buff` as a test run takes it.
const CONTEXT: usize = 192;
const INGRESS_IFINDEX_AT: usize = 36;
const IFINDEX_AT: usize = 40;

/// Loads a program of type `kind` that uses no GPL-only helper.
pub(super) fn load(kind: u32, attach: u32, insns: &[Insn]) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: this member of the union is the one that the command reads.
    let program = unsafe { &mut attr.__bindgen_anon_3 };
    program.prog_type = kind;
    program.expected_attach_type = attach;
    program.insns = insns.as_ptr() as u64;
    program.insn_cnt = insns.len() as u32;
    program.license = c"Dual MIT/GPL".as_ptr() as u64;
    made(bpf_cmd::BPF_PROG_LOAD, &mut attr)
}

/// A program array with one entry.
pub(super) fn program_array(target: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const PROG_ARRAY: u32 = 3;
    let mut attr = zeroed();
    // SAFETY: as in `load`.
    let map = unsafe { &mut attr.__bindgen_anon_1 };
    (map.map_type, map.key_size, map.value_size, map.max_entries) = (PROG_ARRAY, 4, 4, 1);
    let array = made(bpf_cmd::BPF_MAP_CREATE, &mut attr)?;
    let (key, value) = (0_u32, target.as_raw_fd() as u32);
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = array.as_raw_fd() as u32;
    attr.__bindgen_anon_2.key = (&raw const key) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = (&raw const value) as u64;
    call(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr)?;
    Ok(array)
}

/// Runs a classifier `repeat` times on one packet; its last verdict. Devices are those of the calling thread's network namespace.
pub(super) fn test_run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    ifindex: u32,
    ingress: u32,
    repeat: u32,
) -> io::Result<i32> {
    let mut context = [0_u8; CONTEXT];
    context[INGRESS_IFINDEX_AT..INGRESS_IFINDEX_AT + 4].copy_from_slice(&ingress.to_ne_bytes());
    context[IFINDEX_AT..IFINDEX_AT + 4].copy_from_slice(&ifindex.to_ne_bytes());
    let mut attr = zeroed();
    attr.test.prog_fd = program.as_raw_fd() as u32;
    attr.test.data_in = frame.as_ptr() as u64;
    attr.test.data_size_in = frame.len() as u32;
    attr.test.ctx_in = context.as_ptr() as u64;
    attr.test.ctx_size_in = context.len() as u32;
    attr.test.repeat = repeat;
    call(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    // SAFETY: the command wrote this member of the union.
    Ok(unsafe { attr.test.retval } as i32)
}

/// What the kernel tells of a program.
pub(super) fn info(program: BorrowedFd<'_>) -> io::Result<bpf_prog_info> {
    // SAFETY: all fields are integers; zero is their absence.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut attr = zeroed();
    attr.info.bpf_fd = program.as_raw_fd() as u32;
    attr.info.info_len = size_of::<bpf_prog_info>() as u32;
    attr.info.info = (&raw mut info) as u64;
    call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// A pinned program.
pub(crate) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    made(bpf_cmd::BPF_OBJ_GET, &mut attr)
}

/// Attaches a program to an interface (by index, Linux 6.6) or a cgroup (by descriptor) for as long as the link is held.
pub(super) fn link(
    program: BorrowedFd<'_>,
    target: u32,
    hook: bpf_attach_type,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.link_create.flags = flags;
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_fd = target;
    attr.link_create.attach_type = hook as u32;
    made(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Makes the kernel count run time of programs for as long as the descriptor is held (Linux 5.8): what the sysctl
/// `kernel.bpf_stats_enabled` does, but undone even if this process is killed.
pub(super) fn statistics() -> io::Result<OwnedFd> {
    made(bpf_cmd::BPF_ENABLE_STATS, &mut zeroed())
}

/// The value of a key.
pub(super) fn lookup<K: IntoBytes + Immutable, V: FromBytes + IntoBytes>(
    map: BorrowedFd<'_>,
    key: &K,
) -> io::Result<V> {
    let mut value = V::new_zeroed();
    element(
        bpf_cmd::BPF_MAP_LOOKUP_ELEM,
        map,
        key.as_bytes().as_ptr(),
        value.as_mut_bytes().as_mut_ptr(),
    )?;
    Ok(value)
}

/// Writes the value of a key.
pub(super) fn update<K: IntoBytes + Immutable, V: IntoBytes + Immutable>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &V,
) -> io::Result<()> {
    element(
        bpf_cmd::BPF_MAP_UPDATE_ELEM,
        map,
        key.as_bytes().as_ptr(),
        value.as_bytes().as_ptr().cast_mut(),
    )
}

/// Removes a key; one that is not there is gone already.
pub(super) fn delete<K: IntoBytes + Immutable>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    match element(
        bpf_cmd::BPF_MAP_DELETE_ELEM,
        map,
        key.as_bytes().as_ptr(),
        std::ptr::null_mut(),
    ) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// Shows every key of a map.
pub(super) fn keys<K: IntoBytes + FromBytes + Immutable>(
    map: BorrowedFd<'_>,
    mut see: impl FnMut(&K),
) -> io::Result<()> {
    let mut key: K;
    let mut before: *const u8 = std::ptr::null();
    loop {
        let mut next = K::new_zeroed();
        match element(
            bpf_cmd::BPF_MAP_GET_NEXT_KEY,
            map,
            before,
            next.as_mut_bytes().as_mut_ptr(),
        ) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
            result => result?,
        }
        see(&next);
        key = next;
        before = key.as_bytes().as_ptr();
    }
}

/// A command on one element; the record at `value` is the command's to read or write.
fn element(
    command: bpf_cmd,
    map: BorrowedFd<'_>,
    key: *const u8,
    value: *mut u8,
) -> io::Result<()> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
    attr.__bindgen_anon_2.key = key as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value as u64;
    call(command, &mut attr).map(drop)
}

fn zeroed() -> bpf_attr {
    // SAFETY: all fields are integers; zero is their absence.
    unsafe { std::mem::zeroed() }
}

fn made(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    let (attr, size) = (std::ptr::from_mut(attr), size_of::<bpf_attr>());
    // SAFETY: `attr` lives through the call, has the size that is passed, and what it points to outlives the call too.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, attr, size) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}
