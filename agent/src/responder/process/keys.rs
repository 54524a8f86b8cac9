//! The keys of session tokens: 32 random bytes each, the current one and the one before, in a file that only the responder can read.
//!
//! Tokens outlive a restart as long as the file does. It belongs on a tmpfs of the pod's own.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use portcullis_imds::token::{KeyBytes, Keys};
use tokio::sync::watch;
use tracing::warn;

/// How long a key is the current one. Tokens live for 6 hours at most, so the one before is never missed.
const ROTATION: Duration = Duration::from_hours(12);

/// Both keys, and since when.
struct Pair {
    current: KeyBytes,
    previous: Option<KeyBytes>,
    since: SystemTime,
}

/// The keys, rotated by a task of their own.
pub(super) fn keep(path: Option<PathBuf>) -> Result<watch::Receiver<Arc<Keys>>> {
    let mut pair = match path.as_deref().map(read).transpose()?.flatten() {
        Some(pair) => pair,
        None => Pair {
            current: random()?,
            previous: None,
            since: SystemTime::now(),
        },
    };
    save(path.as_deref(), &pair)?;
    let (sender, receiver) = watch::channel(Arc::new(pair.keys()));
    tokio::spawn(async move {
        loop {
            let age = pair.since.elapsed().unwrap_or_default();
            tokio::time::sleep(ROTATION.saturating_sub(age)).await;
            match pair.rotate().and_then(|()| save(path.as_deref(), &pair)) {
                Ok(()) => drop(sender.send_replace(Arc::new(pair.keys()))),
                Err(error) => {
                    warn!(error = %format!("{error:#}"), "Keys of session tokens could not be rotated");
                    pair.since = SystemTime::now();
                }
            }
        }
    });
    Ok(receiver)
}

impl Pair {
    fn keys(&self) -> Keys {
        Keys::new(&self.current, self.previous.as_ref())
    }

    fn rotate(&mut self) -> Result<()> {
        self.previous = Some(std::mem::replace(&mut self.current, random()?));
        self.since = SystemTime::now();
        Ok(())
    }
}

fn random() -> Result<KeyBytes> {
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("reading random bytes")?;
    Ok(bytes)
}

/// What a responder before us left; none if there is nothing or it is damaged.
fn read(path: &Path) -> Result<Option<Pair>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let (keys, rest) = bytes.as_chunks::<32>();
    let (current, previous) = match (keys, rest) {
        ([current], []) => (*current, None),
        ([current, previous], []) => (*current, Some(*previous)),
        _ => return Ok(None),
    };
    let since = fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .with_context(|| format!("reading {}", path.display()))?;
    Ok(Some(Pair {
        current,
        previous,
        since,
    }))
}

/// Whole or not at all. The file's time is when its current key was made.
fn save(path: Option<&Path>, pair: &Pair) -> Result<()> {
    let Some(path) = path else {
        return Ok(());
    };
    let part = path.with_extension("part");
    let write = || -> io::Result<()> {
        let _ = fs::remove_file(&part);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)?;
        file.write_all(&pair.current)?;
        if let Some(previous) = &pair.previous {
            file.write_all(previous)?;
        }
        file.set_modified(pair.since)?;
        fs::rename(&part, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}
