//! What a machine must offer before a lab is built on it, tried rather than guessed, and named when it is missing.

use std::fs;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

use crate::state;

/// What is missing here, one line each; empty if a lab can be built.
#[must_use]
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !geteuid().is_root() {
        missing.push("root: namespaces, mounts and raw sockets need it".to_owned());
        return missing;
    }
    match thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => missing.push(format!(
            "network namespaces (CONFIG_NET_NS, CAP_SYS_ADMIN): {error}"
        )),
        Err(_) => missing.push("threads".to_owned()),
    }
    if !fs::read_to_string("/proc/filesystems")
        .unwrap_or_default()
        .lines()
        .any(|line| line.ends_with("\tbpf"))
    {
        missing.push("the bpf file system (CONFIG_BPF_SYSCALL)".to_owned());
    }
    if !fs::exists("/proc/sys/net/ipv6").unwrap_or(false) {
        missing
            .push("IPv6 (CONFIG_IPV6, no ipv6.disable=1 on the kernel's command line)".to_owned());
    }
    if let Err(error) = fs::create_dir_all(state::ROOT) {
        missing.push(format!("a directory {}: {error}", state::ROOT));
    }
    // Fails if there are labs, which is fine.
    let _ = fs::remove_dir(state::ROOT);
    missing
}
