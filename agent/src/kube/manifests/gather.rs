//! Files and directories read once, to be looked over rather than enforced.
//!
//! The same documents become the same objects as in the agent's feed, by the same code. Beside them stand what only a lint asks for: where an object was
//! found, the traps of policies, and pods that other objects are going to make from their templates.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::ManifestError;
use super::objects::{Found, Purpose, objects};
use super::reader::{everything, is_manifest, together};
use crate::kube::{Batch, Key, Trap};

/// What stands for standard input.
const STDIN: &str = "-";

/// Everything that was found.
#[derive(Debug)]
pub struct Gathered {
    /// The objects, all that a world needs.
    pub batch: Batch,
    /// What is known of each object besides; of several of one name the last one, which counts.
    pub beside: BTreeMap<Key, Beside>,
}

/// What stands beside an object.
#[derive(Debug)]
pub struct Beside {
    /// The document that it stands in, `FILE#NUMBER`.
    pub origin: String,
    /// What a policy says and people read otherwise.
    pub traps: Vec<Trap>,
}

/// Reads files, directories (their `*.yaml`, `*.yml` and `*.json`, not those below) and `-` for standard input, in this order.
pub fn gather(paths: &[PathBuf]) -> Result<Gathered, ManifestError> {
    let mut found = Vec::new();
    for path in paths {
        if path.as_os_str() == STDIN {
            let mut bytes = Vec::new();
            let read = io::stdin().lock().read_to_end(&mut bytes);
            read.map_err(|source| unreadable(path, source))?;
            found.extend(objects("stdin", &bytes, Purpose::Lint));
        } else if path.is_dir() {
            for file in manifests(path)? {
                add(&file, &mut found)?;
            }
        } else {
            add(path, &mut found)?;
        }
    }
    let state = together(found.iter());
    let mut beside = BTreeMap::new();
    for Found {
        entry,
        origin,
        traps,
        ..
    } in found
    {
        beside.insert(entry.key, Beside { origin, traps });
    }
    Ok(Gathered {
        batch: everything(&state),
        beside,
    })
}

fn add(file: &Path, found: &mut Vec<Found>) -> Result<(), ManifestError> {
    let bytes = fs::read(file).map_err(|source| unreadable(file, source))?;
    found.extend(objects(&file.to_string_lossy(), &bytes, Purpose::Lint));
    Ok(())
}

/// The files of a directory that count, in the order of their names.
fn manifests(directory: &Path) -> Result<Vec<PathBuf>, ManifestError> {
    let failed = |source| ManifestError::Directory {
        directory: directory.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        // A FIFO would block for ever.
        if is_manifest(&entry.file_name()) && path.is_file() {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn unreadable(path: &Path, source: io::Error) -> ManifestError {
    ManifestError::File {
        path: path.to_owned(),
        source,
    }
}
