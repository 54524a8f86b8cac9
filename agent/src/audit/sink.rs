//! The file of records: JSON lines, written by a thread of its own.
//!
//! 1. Whoever records never waits: what finds the queue full is lost to the file, and counted.
//! 2. What cannot be written stays in memory, up to as many records again, and is tried once a second: a full disk that is emptied has cost nothing.
//! 3. A file that was moved away is made anew, so rotating it needs no signal.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::{info, warn};

use crate::report::AuditRecord;

/// Records that wait for the thread, and again those that wait for the file.
const QUEUE: usize = 4096;
/// How often what could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// A file of records.
pub(super) struct Sink {
    queue: SyncSender<Job>,
    shared: Arc<Shared>,
}

enum Job {
    Write(Arc<AuditRecord>),
    /// Answered once everything before it was tried.
    Close(SyncSender<()>),
}

#[derive(Default)]
struct Shared {
    problem: Mutex<Option<String>>,
    lost: AtomicU64,
}

impl Sink {
    /// Opens `path` to be written at its end. One that cannot be opened is a problem, not an error.
    pub(super) fn open(path: &Path) -> Self {
        let (queue, jobs) = sync_channel(QUEUE);
        let shared = Arc::<Shared>::default();
        let mut writer = Writer {
            path: path.to_owned(),
            file: None,
            torn: false,
            waiting: VecDeque::new(),
            shared: Arc::clone(&shared),
        };
        writer.flush();
        let started = thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run(&jobs));
        if let Err(error) = started {
            shared.say(Some(format!(
                "audit records are not written: no thread: {error}"
            )));
        }
        Self { queue, shared }
    }

    /// Has a record written, some time.
    pub(super) fn write(&self, record: Arc<AuditRecord>) {
        if self.queue.try_send(Job::Write(record)).is_err() {
            self.shared.lost.fetch_add(1, Relaxed);
        }
    }

    /// What is wrong with the file.
    pub(super) fn problem(&self) -> Option<String> {
        self.shared.said().clone()
    }

    /// Records that were never written.
    pub(super) fn lost(&self) -> u64 {
        self.shared.lost.load(Relaxed)
    }

    /// Waits for what was to be written before, but not for long.
    pub(super) fn close(&self, within: Duration) {
        let (done, is_done) = sync_channel(1);
        if self.queue.try_send(Job::Close(done)).is_ok() {
            // If it takes longer, the records stand in the ring of an agent that ends.
            let _ = is_done.recv_timeout(within);
        }
    }
}

impl Shared {
    fn said(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        // Nothing panics while it holds the lock.
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, problem: Option<String>) {
        let mut said = self.said();
        match (&*said, &problem) {
            (None, Some(problem)) => warn!(%problem, "Audit log fails"),
            (Some(_), None) => info!("Audit log is written again"),
            _ => {}
        }
        *said = problem;
    }
}

struct Writer {
    path: PathBuf,
    file: Option<File>,
    /// Whether the last line may lack its end.
    torn: bool,
    waiting: VecDeque<Vec<u8>>,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            match jobs.recv_timeout(AGAIN) {
                Ok(Job::Write(record)) => {
                    self.add(&record);
                    // All that waits in one go.
                    while let Ok(job) = jobs.try_recv() {
                        match job {
                            Job::Write(record) => self.add(&record),
                            Job::Close(done) => {
                                self.flush();
                                let _ = done.send(());
                            }
                        }
                    }
                    self.flush();
                }
                Ok(Job::Close(done)) => {
                    self.flush();
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {
                    let fails = self.shared.said().is_some();
                    if fails || !self.waiting.is_empty() {
                        self.flush();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return self.flush(),
            }
        }
    }

    fn add(&mut self, record: &AuditRecord) {
        let Ok(mut line) = serde_json::to_vec(record) else {
            return;
        };
        line.push(b'\n');
        if self.waiting.len() >= QUEUE {
            self.waiting.pop_front();
            self.shared.lost.fetch_add(1, Relaxed);
        }
        self.waiting.push_back(line);
    }

    fn flush(&mut self) {
        let problem = self.write_all().err().map(|error| {
            self.file = None;
            format!(
                "audit records are not written to {}: {error}",
                self.path.display()
            )
        });
        self.shared.say(problem);
    }

    fn write_all(&mut self) -> io::Result<()> {
        let file = match self.file.take().filter(|file| is_at(file, &self.path)) {
            Some(file) => file,
            None => OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&self.path)?,
        };
        let file = self.file.insert(file);
        while let Some(line) = self.waiting.front() {
            if self.torn {
                file.write_all(b"\n")?;
            }
            self.torn = true;
            file.write_all(line)?;
            self.torn = false;
            self.waiting.pop_front();
        }
        Ok(())
    }
}

/// Whether `file` is what is at `path` now.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (file.metadata(), path.metadata()) else {
        return false;
    };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}
