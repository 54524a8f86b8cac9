//! Objects from a directory of YAML and JSON files: the API server's stand-in for the lab, for `explain` and for tests.
//!
//! ```text
//! directory --inotify, 50 ms of quiet--> Reader::read (whole directory) --difference--> Batch
//! reread() ------------------------------/
//! ```
//! The whole directory is one state: it is read as a whole, compared with what was sent before, and the difference goes out as one batch. Files are
//! `*.yaml`, `*.yml` and `*.json` of the directory itself, in the order of their names; hidden ones and subdirectories are left alone. A directory
//! or file that cannot be read changes nothing of what is in force; a document that cannot be parsed does, at once and by name.

mod document;
mod gather;
mod objects;
mod reader;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{info, warn};

use self::reader::Reader;
use super::{Batch, Change, Keep, Kind, Trouble};
use crate::endpoint::directory::DirectoryWatch;

pub use gather::{Beside, Gathered, gather};

/// How long the directory has to be quiet before it is read.
const QUIET: Duration = Duration::from_millis(50);

/// The longest that a directory which is never quiet stays unread.
const PATIENCE: Duration = Duration::from_millis(500);

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Give the path of an existing directory that the agent may read.
    #[error("cannot read the manifest directory {}", .directory.display())]
    Directory {
        /// What was asked for.
        directory: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Give the path of a file that may be read.
    #[error("cannot read {}", .path.display())]
    File {
        /// What was asked for.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Raise `fs.inotify.max_user_instances` or `max_user_watches`.
    #[error("cannot watch the manifest directory {}", .directory.display())]
    Watch {
        /// What was asked for.
        directory: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The reading thread ended without an answer: a bug of ours, restart the agent and report it.
    #[error("reading the manifest directory ended early")]
    Interrupted(#[source] tokio::task::JoinError),
}

/// A reading that was asked for did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RereadError {
    /// Make the directory readable; the last state stays in force.
    #[error("the manifest directory cannot be read: {0}")]
    Unreadable(String),
    /// The feed has ended; look for its own error in the log.
    #[error("the manifest feed has ended")]
    Ended,
}

type Asker = oneshot::Sender<Result<(), RereadError>>;

/// Reads the directory once, without annotations. The batch holds one `Reset` for each kind, and nothing else is needed to build a world from it.
pub fn read(directory: &Path) -> Result<Batch, ManifestError> {
    let mut reader = Reader::new(directory, Keep::nothing());
    let state = reader.read()?;
    Ok(reader.difference(state))
}

/// What a directory with these files, names and contents, would say. The batch is that of [`read`].
#[must_use]
pub fn parse<'f>(files: impl IntoIterator<Item = (&'f str, &'f [u8])>) -> Batch {
    let found: Vec<_> = files
        .into_iter()
        .flat_map(|(name, bytes)| {
            objects::objects(name, bytes, objects::Purpose::Enforce(&Keep::nothing()))
        })
        .collect();
    reader::everything(&reader::together(found.iter()))
}

/// Asks a running feed to read the directory again.
#[derive(Clone, Debug)]
pub struct Rereader(mpsc::Sender<Asker>);

impl Rereader {
    /// Returns when the directory has been read by a reading that began after this call, and its batch stands in the channel of changes: what the
    /// caller sends into that channel next comes behind it.
    pub async fn reread(&self) -> Result<(), RereadError> {
        let (answer, answered) = oneshot::channel();
        if self.0.send(answer).await.is_err() {
            return Err(RereadError::Ended);
        }
        answered.await.unwrap_or(Err(RereadError::Ended))
    }
}

/// The feed: watches are set, nothing is read yet.
pub struct Feed {
    directory: PathBuf,
    keep: Keep,
    watch: DirectoryWatch,
    requests: mpsc::Receiver<Asker>,
}

impl Feed {
    /// Opens the directory. A directory that is not there is an error here; later it is only trouble.
    pub fn open(directory: &Path, keep: Keep) -> Result<(Self, Rereader), ManifestError> {
        std::fs::read_dir(directory).map_err(|source| ManifestError::Directory {
            directory: directory.to_owned(),
            source,
        })?;
        let watch = DirectoryWatch::new(directory).map_err(|source| ManifestError::Watch {
            directory: directory.to_owned(),
            source,
        })?;
        let (sender, requests) = mpsc::channel(16);
        Ok((
            Self {
                directory: directory.to_owned(),
                keep,
                watch,
                requests,
            },
            Rereader(sender),
        ))
    }

    /// Sends what the directory holds, then every change, until the receiver is gone.
    pub async fn run(mut self, changes: mpsc::Sender<Batch>) -> Result<(), ManifestError> {
        let mut reader = Reader::new(&self.directory, self.keep.clone());
        let mut waiting: Vec<Asker> = Vec::new();
        let mut asking = true;
        let mut trouble = false;
        loop {
            // Parsing thousands of objects takes longer than a task may hold its thread.
            let (back, result) = tokio::task::spawn_blocking(move || {
                let result = reader.read();
                (reader, result)
            })
            .await
            .map_err(ManifestError::Interrupted)?;
            reader = back;
            let answer = match result {
                Ok(state) => {
                    let mut batch = reader.difference(state);
                    if std::mem::take(&mut trouble) {
                        batch.extend(Kind::FED.map(|kind| Change::Trouble {
                            kind,
                            trouble: None,
                        }));
                        info!(directory = %self.directory.display(), "Manifest directory is readable again");
                    }
                    if !batch.is_empty() && changes.send(batch).await.is_err() {
                        return Ok(());
                    }
                    Ok(())
                }
                Err(error) => {
                    let reason = described(&error);
                    if !std::mem::replace(&mut trouble, true) {
                        let directory = self.directory.display();
                        warn!(%directory, error = %reason, "Manifest directory cannot be read, the last state stays in force");
                        let batch = Kind::FED.map(|kind| Change::Trouble {
                            kind,
                            trouble: Some(Trouble {
                                reason: reason.clone(),
                                since: Instant::now().into_std(),
                                lacks: None,
                            }),
                        });
                        if changes.send(batch.to_vec()).await.is_err() {
                            return Ok(());
                        }
                    }
                    Err(RereadError::Unreadable(reason))
                }
            };
            for asker in waiting.drain(..) {
                // The asker may have given up.
                let _ = asker.send(answer.clone());
            }

            tokio::select! {
                request = self.requests.recv(), if asking => match request {
                    Some(request) => waiting.push(request),
                    None => asking = false,
                },
                result = self.watch.changed() => {
                    self.watched(result)?;
                    self.settle(&mut waiting, &mut asking).await?;
                }
                () = changes.closed() => return Ok(()),
            }
            while let Ok(request) = self.requests.try_recv() {
                waiting.push(request);
            }
        }
    }

    /// Waits for quiet after a change, or for someone who asks for a reading now.
    async fn settle(
        &mut self,
        waiting: &mut Vec<Asker>,
        asking: &mut bool,
    ) -> Result<(), ManifestError> {
        let latest = Instant::now() + PATIENCE;
        loop {
            let quiet = (Instant::now() + QUIET).min(latest);
            tokio::select! {
                biased;
                request = self.requests.recv(), if *asking => match request {
                    Some(request) => {
                        waiting.push(request);
                        return Ok(());
                    }
                    None => *asking = false,
                },
                () = tokio::time::sleep_until(quiet) => return Ok(()),
                result = self.watch.changed() => self.watched(result)?,
            }
        }
    }

    fn watched(&self, result: io::Result<()>) -> Result<(), ManifestError> {
        result.map_err(|source| ManifestError::Watch {
            directory: self.directory.clone(),
            source,
        })
    }
}

fn described(error: &ManifestError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
