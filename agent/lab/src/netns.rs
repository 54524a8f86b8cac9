//! Named network namespaces: created on a thread of their own, kept by a bind mount, entered by threads that end afterwards.
//!
//! Only the network namespace is ever changed. `/sys` is never remounted (as `ip netns exec` does): that would hide the bpffs and the cgroups.
//! Invariant: no thread that someone else may use later is left in a foreign namespace.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace with a name in the file system.
///
/// Dropping one that was created here takes the name away, unless [`NetNs::keep`] was called; the namespace itself lives as long as a process,
/// a socket or a mount refers to it.
#[derive(Debug)]
pub struct NetNs {
    path: PathBuf,
    file: File,
    owned: bool,
}

impl NetNs {
    /// Creates a namespace, names it by a bind mount on `path`, and runs `configure` inside it.
    pub fn create<R: Send>(
        path: &Path,
        configure: impl FnOnce() -> Result<R> + Send,
    ) -> Result<(Self, R)> {
        File::create_new(path).with_context(|| format!("creating {}", path.display()))?;
        let made = on_fresh_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("creating a network namespace")?;
            mount(
                Some("/proc/thread-self/ns/net"),
                path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .with_context(|| format!("mounting a network namespace on {}", path.display()))?;
            // From here on a failure must take the mount away again: `owned` does.
            let ns = Self {
                path: path.to_owned(),
                file: File::open(path)?,
                owned: true,
            };
            let configured = configure()?;
            Ok((ns, configured))
        });
        if made.is_err() {
            // Best effort: the error that matters is the first one.
            let _ = fs::remove_file(path);
        }
        made
    }

    /// Opens a namespace that exists.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path)
            .with_context(|| format!("opening network namespace {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            owned: false,
        })
    }

    /// Where its name lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open namespace file, for `setns`.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The inode number: what `readlink /proc/PID/ns/net` shows in brackets.
    pub fn inode(&self) -> Result<u64> {
        Ok(self
            .file
            .metadata()
            .context("reading a namespace's inode")?
            .ino())
    }

    /// Leaves the name in the file system when this value goes.
    pub fn keep(&mut self) {
        self.owned = false;
    }

    /// Takes the name away now or when dropped, even if it was only opened.
    pub fn remove(mut self) {
        self.owned = true;
    }

    /// Runs `work` in this namespace on a thread that ends with it.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
        on_fresh_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("entering {}", self.path.display()))?;
            work()
        })
    }

    /// Makes `command` start in this namespace.
    pub fn enter(&self, command: &mut Command) -> Result<()> {
        let file = self
            .file
            .try_clone()
            .context("duplicating a namespace file")?;
        // SAFETY: between fork and exec the closure makes one system call on an open file and allocates nothing.
        unsafe {
            command
                .pre_exec(move || setns(&file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
        }
        Ok(())
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if self.owned {
            // Both may be gone already, by `lab down` of another process.
            let _ = umount2(&self.path, MntFlags::MNT_DETACH);
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Runs `work` on a new thread, so that what it does to its namespace ends with it.
fn on_fresh_thread<R: Send>(work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .spawn_scoped(scope, work)
            .context("starting a thread")?;
        worker
            .join()
            .map_err(|_panic| anyhow!("a thread in a network namespace panicked"))?
    })
}
