//! Processes that have only a few capabilities, as a container's security context gives them.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 bits for each set.
const VERSION: u32 = 0x2008_0522;
/// More than any kernel has.
const NUMBERS: std::ops::Range<u8> = 0..64;

/// Makes `command` start with exactly the capabilities `numbers` (linux/capability.h), in every set that counts, as the user that it has.
///
/// Exec gives uid 0 what the bounding set leaves, so that is cut first; the inheritable and ambient sets are emptied.
pub fn keep_only(command: &mut Command, numbers: &[u8]) {
    let wanted = numbers
        .iter()
        .fold(0u64, |bits, number| bits | 1u64 << number);
    // SAFETY: between fork and exec the closure makes system calls on its own data and allocates nothing.
    unsafe {
        command.pre_exec(move || restrict(wanted));
    }
}

fn restrict(wanted: u64) -> io::Result<()> {
    for number in NUMBERS {
        // A number that this kernel does not have is refused, and that is fine.
        if wanted >> number & 1 == 0 {
            // SAFETY: no memory is touched.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
        }
    }
    // SAFETY: no memory is touched.
    let cleared = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    };
    if cleared != 0 {
        return Err(io::Error::last_os_error());
    }
    let header: [u32; 2] = [VERSION, 0];
    let (low, high) = (wanted as u32, (wanted >> 32) as u32);
    // Effective, permitted, inheritable; low words first.
    let sets: [u32; 6] = [low, low, 0, high, high, 0];
    // SAFETY: header and sets have the layout that this version asks for, and outlive the call.
    let set = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
