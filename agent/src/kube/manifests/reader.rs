//! The directory as one state: what its documents say, completed as the API server would, and the difference to what was said before.
//!
//! Several documents of one kind, namespace and name: the last one counts, in the order of file names and documents, and the report says so; what an
//! unreadable document closes nobody replaces. Two pods with one uid: the first by namespace and name keeps it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ManifestError;
use super::objects::{Found, Purpose, objects, refused};
use crate::kube::convert::{derived_uid, implied_namespace};
use crate::kube::{Batch, Change, Entry, Keep, Key, Kind, Object, Problem, Reason, ServiceAccount};

/// All objects of the directory by name.
pub(super) type State = BTreeMap<Key, Entry>;

/// Reads the directory and remembers what it said last.
pub(super) struct Reader {
    directory: PathBuf,
    keep: Keep,
    /// What each file said, so that an unchanged one is not parsed again.
    files: BTreeMap<OsString, File>,
    hasher: RandomState,
    sent: Option<State>,
}

struct File {
    length: usize,
    hash: u64,
    found: Arc<[Found]>,
}

impl Reader {
    pub(super) fn new(directory: &Path, keep: Keep) -> Self {
        Self {
            directory: directory.to_owned(),
            keep,
            files: BTreeMap::new(),
            hasher: RandomState::new(),
            sent: None,
        }
    }

    /// What the directory says now.
    pub(super) fn read(&mut self) -> Result<State, ManifestError> {
        let failed = |source| ManifestError::Directory {
            directory: self.directory.clone(),
            source,
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if is_manifest(&name) {
                names.push(name);
            }
        }
        names.sort_unstable();

        let mut files = BTreeMap::new();
        let mut unreadable = Vec::new();
        for name in names {
            match self.file(&name) {
                Ok(Some(file)) => {
                    files.insert(name, file);
                }
                Ok(None) => {}
                Err(error) => {
                    // What it said before stays, as for a directory that cannot be read.
                    files.extend(self.files.remove(&name).map(|file| (name.clone(), file)));
                    let message = format!("cannot be read: {error}");
                    let reason = Reason::Syntax {
                        message,
                        line: None,
                    };
                    unreadable.push(refused(&name.to_string_lossy(), "", reason));
                }
            }
        }
        self.files = files;

        let found = self.files.values().flat_map(|file| file.found.iter());
        Ok(together(found.chain(&unreadable)))
    }

    /// What has to be said so that the world is in `state`; the first time everything.
    pub(super) fn difference(&mut self, state: State) -> Batch {
        let mut batch = Batch::new();
        match &self.sent {
            None => batch.extend(everything(&state)),
            Some(sent) => {
                let gone = sent.keys().filter(|key| !state.contains_key(*key));
                batch.extend(gone.map(|key| Change::Delete {
                    key: key.clone(),
                    uid: None,
                }));
                let changed = state
                    .values()
                    .filter(|entry| sent.get(&entry.key) != Some(*entry));
                batch.extend(changed.map(|entry| Change::Apply(entry.clone())));
            }
        }
        self.sent = Some(state);
        batch
    }

    /// The file's objects; `None` if it is no file, or gone since the directory was listed.
    fn file(&mut self, name: &OsStr) -> io::Result<Option<File>> {
        let path = self.directory.join(name);
        // A FIFO would block for ever.
        match fs::metadata(&path) {
            Ok(metadata) if !metadata.is_file() => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let (length, hash) = (bytes.len(), self.hasher.hash_one(&bytes));
        let found = match self.files.get(name) {
            Some(file) if (file.length, file.hash) == (length, hash) => Arc::clone(&file.found),
            _ => objects(
                &name.to_string_lossy(),
                &bytes,
                Purpose::Enforce(&self.keep),
            )
            .into(),
        };
        Ok(Some(File {
            length,
            hash,
            found,
        }))
    }
}

/// What all documents say together, completed as the API server would.
pub(super) fn together<'f>(all: impl Iterator<Item = &'f Found>) -> State {
    let mut state = State::new();
    let mut origins: BTreeMap<Key, &str> = BTreeMap::new();
    let mut guessed = Vec::new();
    for found in all {
        if found.guessed {
            guessed.push(found);
            continue;
        }
        let mut entry = found.entry.clone();
        if let Some(earlier) = origins.insert(entry.key.clone(), &found.origin) {
            let reason = Reason::Duplicate((*earlier).to_owned());
            entry.problems.push(Problem {
                field: String::new(),
                reason,
            });
        }
        state.insert(entry.key.clone(), entry);
    }
    for found in guessed {
        // What really has that name stands beside it; what is closed stays closed.
        let entry = if state.contains_key(&found.entry.key) {
            found.by_its_document()
        } else {
            found.entry.clone()
        };
        state.insert(entry.key.clone(), entry);
    }
    refuse_shared_uids(&mut state);
    imply_namespaces(&mut state);
    imply_default_accounts(&mut state);
    state
}

/// A state as the first thing that a world hears.
pub(super) fn everything(state: &State) -> Batch {
    let mut live: BTreeMap<Kind, Vec<Entry>> = Kind::FED
        .into_iter()
        .chain([Kind::Document])
        .map(|kind| (kind, Vec::new()))
        .collect();
    for entry in state.values() {
        live.entry(entry.key.kind).or_default().push(entry.clone());
    }
    let resets = live
        .into_iter()
        .map(|(kind, live)| Change::Reset { kind, live });
    resets.collect()
}

/// Whether a file of a directory counts.
pub(super) fn is_manifest(name: &OsStr) -> bool {
    let path = Path::new(name);
    let hidden = name.as_encoded_bytes().starts_with(b".");
    !hidden
        && path.extension().is_some_and(|extension| {
            extension == "yaml" || extension == "yml" || extension == "json"
        })
}

fn refuse_shared_uids(state: &mut State) {
    let mut owners: BTreeMap<String, Key> = BTreeMap::new();
    for entry in state.values_mut() {
        let Some(Object::Pod(pod)) = &entry.object else {
            continue;
        };
        match owners.entry(pod.workload.uid.clone()) {
            Slot::Vacant(slot) => {
                slot.insert(entry.key.clone());
            }
            Slot::Occupied(owner) => {
                let reason = Reason::DuplicateUid(owner.get().to_string());
                entry.problems.push(Problem {
                    field: "metadata.uid".to_owned(),
                    reason,
                });
                entry.object = None;
                entry.annotations = None;
            }
        }
    }
}

/// A namespace that objects stand in exists; one that was refused does not come back by this door.
fn imply_namespaces(state: &mut State) {
    let mut names: Vec<String> = state
        .keys()
        .filter_map(|key| key.namespace.clone())
        .collect();
    names.dedup();
    for name in names {
        let key = Key {
            kind: Kind::Namespace,
            namespace: None,
            name: name.clone(),
        };
        state.entry(key.clone()).or_insert_with(|| Entry {
            key,
            object: Some(Object::Namespace(implied_namespace(&name))),
            problems: Vec::new(),
            annotations: None,
        });
    }
}

/// Every namespace has an account `default`, which the API server's controllers make. Others have to be written: it takes no pod without its account.
fn imply_default_accounts(state: &mut State) {
    let names: Vec<String> = state
        .values()
        .filter(|entry| entry.key.kind == Kind::Namespace && entry.object.is_some())
        .map(|entry| entry.key.name.clone())
        .collect();
    for name in names {
        let key = Key {
            kind: Kind::ServiceAccount,
            namespace: Some(name),
            name: "default".to_owned(),
        };
        state.entry(key.clone()).or_insert_with(|| Entry {
            object: Some(Object::ServiceAccount(ServiceAccount {
                uid: derived_uid(&key).into(),
            })),
            key,
            problems: Vec::new(),
            annotations: None,
        });
    }
}
