//! Random worlds: objects of a small cluster and probes about it, the same for the same seed.
//!
//! ```text
//! seed -> places (namespaces, nodes, pods) -> policies -> probes -> World -> files for the program under test
//! ```
//! Objects are as people write them: no uid, no resourceVersion, no defaults filled in. Nothing here knows the right answers; the oracle
//! does. Invariant: every probe of a generated world can be answered.

mod minimise;
mod places;
mod policies;
mod probes;
mod rng;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

pub use minimise::minimise;

use crate::probe::Probe;
use rng::Rng;

/// Who is going to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The compiler: everything that has a meaning.
    Compiler,
    /// Programs on one node: without what nobody can send, or what a node cannot build (two pods on one address).
    Kernel,
}

/// Objects and the probes about them.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    /// What it was rolled from.
    pub seed: u64,
    /// JSON as in manifests, without `kind: List`.
    pub objects: Vec<Value>,
    /// With ids that are unique within the world.
    pub probes: Vec<Probe>,
}

/// Where a world was written.
#[derive(Clone, Debug)]
pub struct Files {
    /// A directory of YAML files.
    pub manifests: PathBuf,
    /// A probe file.
    pub probes: PathBuf,
}

impl World {
    /// The world of a seed. The two audiences get different worlds for one seed.
    #[must_use]
    pub fn random(seed: u64, audience: Audience) -> Self {
        let mut rng = Rng::new(seed);
        let places = places::random(&mut rng, audience);
        let policies = policies::random(&mut rng, &places);
        let probes = probes::random(&mut rng, &places, &policies, audience);
        let mut objects = places.objects;
        objects.extend(policies);
        Self {
            seed,
            objects,
            probes,
        }
    }

    /// Writes `manifests/*.yaml` (documents in one file, a `kind: List`, JSON as YAML) and `probes.json` into a directory that exists.
    pub fn write(&self, directory: &Path) -> io::Result<Files> {
        let files = Files {
            manifests: directory.join("manifests"),
            probes: directory.join("probes.json"),
        };
        fs::create_dir_all(&files.manifests)?;
        for (name, text) in self.manifests().map_err(io::Error::other)? {
            fs::write(files.manifests.join(name), text)?;
        }
        fs::write(&files.probes, serde_json::to_vec_pretty(&self.probes)?)?;
        Ok(files)
    }

    /// Everything on one screen, for a failing test.
    #[must_use]
    pub fn dump(&self) -> String {
        let mut text = format!("world of seed {}\n", self.seed);
        for object in &self.objects {
            let _ = writeln!(text, "---\n{object}");
        }
        text.push_str("--- probes\n");
        for probe in &self.probes {
            let _ = writeln!(text, "{}", json!(probe));
        }
        text
    }

    /// Objects take turns between the three ways to write them.
    fn manifests(&self) -> Result<[(&'static str, String); 3], serde_saphyr::ser::Error> {
        let turn = |which: usize| {
            self.objects
                .iter()
                .skip(which)
                .step_by(3)
                .collect::<Vec<_>>()
        };
        let mut documents = String::new();
        for object in turn(0) {
            let _ = write!(documents, "---\n{}", serde_saphyr::to_string(object)?);
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": turn(1)});
        let mut json = String::new();
        for object in turn(2) {
            let _ = writeln!(json, "---\n{object:#}");
        }
        Ok([
            ("documents.yaml", documents),
            ("list.yaml", serde_saphyr::to_string(&list)?),
            ("json.yaml", json),
        ])
    }
}
