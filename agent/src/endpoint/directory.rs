//! Tells when something in a directory may have changed; says nothing about what.
//!
//! The directory need not exist yet, may be replaced as a whole, and may be reached through symlinks that are swapped (a mounted ConfigMap's
//! `..data`): besides the directory itself every directory above it is watched, along the path as given and along the path it resolves to, for
//! the one name that leads on. Watches are set again before a change is reported, so whoever reads after the report misses nothing.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use futures::{FutureExt as _, StreamExt as _};
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask, Watches};

/// Room for many events at once; when the kernel's own queue overflows it says so, and that counts as a change.
const BUFFER: usize = 64 * 1024;

/// How often the path is followed again when it changes while the watches are set.
const ATTEMPTS: usize = 5;

/// A watch on one directory.
pub struct DirectoryWatch {
    path: PathBuf,
    watches: Watches,
    events: EventStream<Vec<u8>>,
    interests: HashMap<WatchDescriptor, Interest>,
}

/// Which names in a watched directory matter.
#[derive(Default)]
struct Interest {
    everything: bool,
    names: Vec<OsString>,
}

impl DirectoryWatch {
    /// Starts watching. Fails only if the kernel grants no inotify instance or no watch at all.
    pub fn new(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let watches = inotify.watches();
        let mut watch = Self {
            path: std::path::absolute(path)?,
            watches,
            events: inotify.into_event_stream(vec![0; BUFFER])?,
            interests: HashMap::new(),
        };
        watch.arm()?;
        Ok(watch)
    }

    /// Waits until something may have changed. May be dropped at any time: nothing that matters is taken and not reported.
    pub async fn changed(&mut self) -> io::Result<()> {
        let mut changed = false;
        let mut moved = false;
        while !changed {
            match self.events.next().await {
                Some(event) => self.note(&event?, &mut changed, &mut moved),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
            // Whatever else is there already belongs to the same change.
            while let Some(Some(event)) = self.events.next().now_or_never() {
                self.note(&event?, &mut changed, &mut moved);
            }
        }
        if moved {
            self.arm()?;
        }
        Ok(())
    }

    fn note(&self, event: &EventOwned, changed: &mut bool, moved: &mut bool) {
        if event
            .mask
            .intersects(EventMask::Q_OVERFLOW | EventMask::IGNORED | EventMask::UNMOUNT)
        {
            // A watch that we took off ourselves reports IGNORED too, under a descriptor that is already forgotten.
            let ours = event.mask.contains(EventMask::Q_OVERFLOW)
                || self.interests.contains_key(&event.wd);
            *changed |= ours;
            *moved |= ours;
            return;
        }
        let Some(interest) = self.interests.get(&event.wd) else {
            return;
        };
        if event
            .name
            .as_ref()
            .is_some_and(|name| interest.names.contains(name))
        {
            *changed = true;
            *moved = true;
        } else if interest.everything {
            *changed = true;
        }
    }

    fn arm(&mut self) -> io::Result<()> {
        for _ in 0..ATTEMPTS {
            let resolved = self.path.canonicalize().ok();
            let mut interests = HashMap::new();
            let mut last_error = None;
            for path in [Some(&self.path), resolved.as_ref()].into_iter().flatten() {
                if let Err(error) = arm_along(&mut self.watches, path, &mut interests) {
                    last_error = Some(error);
                }
            }
            for old in self
                .interests
                .keys()
                .filter(|wd| !interests.contains_key(*wd))
            {
                // Gone with its directory: nothing left to take off.
                let _ = self.watches.remove(old.clone());
            }
            self.interests = interests;
            match last_error {
                Some(error) if self.interests.is_empty() => return Err(error),
                _ if resolved == self.path.canonicalize().ok() => break,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Watches `path` for everything and each directory above it for the name that leads towards `path`.
fn arm_along(
    watches: &mut Watches,
    path: &Path,
    interests: &mut HashMap<WatchDescriptor, Interest>,
) -> io::Result<()> {
    let mask = WatchMask::CREATE
        | WatchMask::CLOSE_WRITE
        | WatchMask::MOVE
        | WatchMask::DELETE
        | WatchMask::ONLYDIR;
    let mut result = Ok(());
    let mut leads_to: Option<OsString> = None;
    for directory in path.ancestors() {
        match watches.add(directory, mask) {
            Ok(wd) => {
                let interest: &mut Interest = interests.entry(wd).or_default();
                match leads_to.take() {
                    Some(name) => interest.names.push(name),
                    None => interest.everything = true,
                }
            }
            // Not there yet: the directory above it will say when it comes.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => result = Err(error),
        }
        leads_to = directory.file_name().map(OsString::from);
    }
    result
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;
    use crate::endpoint::scratch::Scratch;

    async fn assert_change(watch: &mut DirectoryWatch, what: &str) {
        tokio::time::timeout(Duration::from_secs(5), watch.changed())
            .await
            .unwrap_or_else(|_| panic!("{what}: no change reported"))
            .expect("inotify works");
    }

    async fn drain(watch: &mut DirectoryWatch) {
        while tokio::time::timeout(Duration::from_millis(20), watch.changed())
            .await
            .is_ok()
        {}
    }

    #[tokio::test]
    async fn a_directory_that_appears_vanishes_and_is_replaced_is_followed() {
        let scratch = Scratch::new("directory");
        let path = scratch.path().join("a/b");
        let mut watch = DirectoryWatch::new(&path).unwrap();
        fs::create_dir_all(&path).unwrap();
        assert_change(&mut watch, "created").await;
        drain(&mut watch).await;

        fs::write(path.join("one.yaml"), "x").unwrap();
        assert_change(&mut watch, "file written").await;
        drain(&mut watch).await;

        let other = scratch.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::rename(&path, scratch.path().join("old")).unwrap();
        fs::rename(&other, &path).unwrap();
        assert_change(&mut watch, "directory replaced").await;
        drain(&mut watch).await;

        fs::write(path.join("two.yaml"), "x").unwrap();
        assert_change(&mut watch, "file in the new directory").await;
    }

    #[tokio::test]
    async fn a_swapped_symlink_on_the_way_is_a_change() {
        let scratch = Scratch::new("swap");
        for name in ["v1", "v2"] {
            fs::create_dir(scratch.path().join(name)).unwrap();
        }
        let link = scratch.path().join("current");
        symlink("v1", &link).unwrap();
        let mut watch = DirectoryWatch::new(&link).unwrap();
        symlink("v2", scratch.path().join("next")).unwrap();
        fs::rename(scratch.path().join("next"), &link).unwrap();
        assert_change(&mut watch, "symlink swapped").await;
        drain(&mut watch).await;
        fs::write(scratch.path().join("v2/a.yaml"), "x").unwrap();
        assert_change(&mut watch, "file behind the new target").await;
    }
}
