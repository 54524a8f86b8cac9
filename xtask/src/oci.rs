//! An OCI image layout in one tar file: what `ctr images import`, `podman load` and `skopeo` take.
//!
//! ```text
//! oci-layout, index.json -> one descriptor for each name -> manifest -> config, layers   (blobs/sha256/*)
//! ```
//! The same input gives the same bytes: entries are sorted, owned by 0:0 and of one age, and layers are
//! not compressed, so that no release of a compressor shows in a digest. Layers are held in memory.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// An image as its maker thinks of it; [`Image::write`] makes the file.
#[derive(Default)]
pub(crate) struct Image {
    /// Full names with a tag, `registry/path:tag`; an image may have several.
    pub(crate) names: Vec<String>,
    /// As OCI spells it: see [`architecture`].
    pub(crate) architecture: String,
    pub(crate) entrypoint: Vec<String>,
    /// `NAME=VALUE`.
    pub(crate) env: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) layers: Vec<Layer>,
}

/// Files of a layer by their path. Folders that lead to them come by themselves, with mode 755.
#[derive(Default)]
pub(crate) struct Layer(BTreeMap<String, Entry>);

struct Entry {
    mode: u32,
    content: Content,
}

enum Content {
    Directory,
    File(Vec<u8>),
    Link(String),
}

/// How OCI calls the processor of a Rust target.
pub(crate) fn architecture(target: &str) -> &str {
    match target.split('-').next().unwrap_or_default() {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Layer {
    pub(crate) fn directory(&mut self, path: &str, mode: u32) {
        self.add(path, mode, Content::Directory);
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, bytes: Vec<u8>) {
        self.add(path, mode, Content::File(bytes));
    }

    /// A file that lies on this machine.
    pub(crate) fn copy(&mut self, path: &str, mode: u32, source: &Path) -> Result<()> {
        let bytes =
            fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        self.file(path, mode, bytes);
        Ok(())
    }

    /// A symbolic link; `target` is written as it is.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.add(path, 0o777, Content::Link(target.to_owned()));
    }

    fn add(&mut self, path: &str, mode: u32, content: Content) {
        let path = path.trim_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/')
            && !self.0.contains_key(parent)
        {
            self.directory(parent, 0o755);
        }
        self.0.insert(path.to_owned(), Entry { mode, content });
    }

    fn pack(&self, mtime: u64) -> Result<Vec<u8>> {
        let mut tar = Tar::new(mtime);
        // A folder's name is a prefix of what lies in it, so in this order it comes first.
        for (path, entry) in &self.0 {
            match &entry.content {
                Content::Directory => tar.directory(path, entry.mode)?,
                Content::File(bytes) => tar.file(path, entry.mode, bytes)?,
                Content::Link(target) => tar.link(path, entry.mode, target)?,
            }
        }
        tar.finish()
    }
}

impl Image {
    /// Writes the file and returns the digest of the image's manifest, `sha256:...`. All times in it are
    /// `mtime`, in seconds since 1970.
    pub(crate) fn write(&self, path: &Path, mtime: u64) -> Result<String> {
        let (bytes, digest) = self.pack(mtime)?;
        let describe = || format!("cannot write {}", path.display());
        fs::create_dir_all(path.parent().with_context(describe)?).with_context(describe)?;
        let part = path.with_extension(format!("{}.part", std::process::id()));
        fs::write(&part, bytes).with_context(describe)?;
        fs::rename(&part, path).with_context(describe)?;
        Ok(digest)
    }

    fn pack(&self, mtime: u64) -> Result<(Vec<u8>, String)> {
        let mut blobs = Blobs::default();
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in &self.layers {
            let layer = blobs.add("application/vnd.oci.image.layer.v1.tar", layer.pack(mtime)?);
            diff_ids.push(layer["digest"].clone());
            layers.push(layer);
        }
        let config = blobs.add(
            "application/vnd.oci.image.config.v1+json",
            json!({
                "architecture": self.architecture,
                "os": "linux",
                "config": {"Entrypoint": self.entrypoint, "Env": self.env, "Labels": self.labels},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            })
            .to_string()
            .into_bytes(),
        );
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = blobs.add(
            media_type,
            json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers})
                .to_string()
                .into_bytes(),
        );
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": self.names.iter().map(|name| self.named(&manifest, name)).collect::<Vec<_>>(),
        });
        let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
        Ok((blobs.into_layout(&index, mtime)?, digest))
    }

    /// The manifest's descriptor as `name` refers to it.
    fn named(&self, manifest: &Value, name: &str) -> Value {
        let mut descriptor = manifest.clone();
        descriptor["platform"] = json!({"architecture": self.architecture, "os": "linux"});
        descriptor["annotations"] = json!({
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": tag(name),
        });
        descriptor
    }
}

/// What stands behind the last colon of the last part; a registry's port is not it.
fn tag(name: &str) -> &str {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.split_once(':').map_or("latest", |(_, tag)| tag)
}

/// Content by its digest.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Takes the content and returns its descriptor.
    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let hex = sha256(&bytes);
        let descriptor = json!({
            "mediaType": media_type,
            "digest": format!("sha256:{hex}"),
            "size": bytes.len(),
        });
        self.0.insert(hex, bytes);
        descriptor
    }

    fn into_layout(self, index: &Value, mtime: u64) -> Result<Vec<u8>> {
        let mut tar = Tar::new(mtime);
        let version = json!({"imageLayoutVersion": "1.0.0"}).to_string();
        tar.file("oci-layout", 0o644, version.as_bytes())?;
        tar.file("index.json", 0o644, index.to_string().as_bytes())?;
        tar.directory("blobs", 0o755)?;
        tar.directory("blobs/sha256", 0o755)?;
        for (hex, bytes) in &self.0 {
            tar.file(&format!("blobs/sha256/{hex}"), 0o644, bytes)?;
        }
        tar.finish()
    }
}

fn sha256(bytes: &[u8]) -> String {
    let mut hex = String::new();
    for byte in Sha256::digest(bytes) {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// A tar file in memory, all of whose entries belong to 0:0 and have one age.
struct Tar {
    builder: Builder<Vec<u8>>,
    mtime: u64,
}

impl Tar {
    fn new(mtime: u64) -> Self {
        Self {
            builder: Builder::new(Vec::new()),
            mtime,
        }
    }

    fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut header = self.header(EntryType::Directory, mode, 0);
        self.builder
            .append_data(&mut header, format!("{path}/"), &[][..])
            .with_context(|| format!("cannot pack the folder {path}"))
    }

    fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let mut header = self.header(EntryType::Regular, mode, bytes.len());
        self.builder
            .append_data(&mut header, path, bytes)
            .with_context(|| format!("cannot pack {path}"))
    }

    fn link(&mut self, path: &str, mode: u32, target: &str) -> Result<()> {
        let mut header = self.header(EntryType::Symlink, mode, 0);
        self.builder
            .append_link(&mut header, path, target)
            .with_context(|| format!("cannot pack the link {path}"))
    }

    fn header(&self, kind: EntryType, mode: u32, size: usize) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(self.mtime);
        header.set_size(size as u64);
        header.set_uid(0);
        header.set_gid(0);
        header
    }

    fn finish(self) -> Result<Vec<u8>> {
        self.builder.into_inner().context("cannot close a tar file")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use tar::Archive;

    use super::*;

    fn image() -> Image {
        let mut base = Layer::default();
        base.directory("tmp", 0o1777);
        base.file("/usr/bin/box", 0o755, b"program".to_vec());
        let mut links = Layer::default();
        links.link("bin/sh", "/usr/bin/box");
        Image {
            names: ["example.test:5000/box:1", "example.test/box"]
                .map(ToOwned::to_owned)
                .to_vec(),
            architecture: architecture("x86_64-unknown-linux-gnu").to_owned(),
            entrypoint: vec!["/bin/sh".to_owned()],
            layers: vec![base, links],
            ..Image::default()
        }
    }

    /// Path, mode, size and content of each entry.
    fn entries(tar: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut archive = Archive::new(tar);
        archive
            .entries()
            .expect("it is a tar file")
            .map(|entry| {
                let mut entry = entry.expect("an entry can be read");
                let header = entry.header();
                assert_eq!((header.uid().ok(), header.gid().ok()), (Some(0), Some(0)));
                assert_eq!(header.mtime().ok(), Some(7));
                let mode = header.mode().expect("it has a mode");
                let path = entry.path().expect("it has a path").display().to_string();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).expect("it has content");
                if let Some(target) = entry.link_name().expect("a target can be read") {
                    content = target.display().to_string().into_bytes();
                }
                (path, mode, content)
            })
            .collect()
    }

    #[test]
    fn every_blob_has_its_digest_for_a_name_and_every_reference_is_there() {
        let (tar, digest) = image().pack(7).expect("it packs");
        let files: BTreeMap<String, Vec<u8>> = entries(&tar)
            .into_iter()
            .map(|(path, _, content)| (path, content))
            .collect();
        let read = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().expect("it has a digest");
            let hex = digest.strip_prefix("sha256:").expect("it is SHA-256");
            let content = &files[&format!("blobs/sha256/{hex}")];
            assert_eq!(sha256(content), hex);
            assert_eq!(descriptor["size"], content.len());
            content.clone()
        };
        let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("it is JSON");
        let index = parse(&files["index.json"]);
        let names: Vec<&Value> = index["manifests"]
            .as_array()
            .expect("it lists manifests")
            .iter()
            .map(|descriptor| {
                assert_eq!(descriptor["digest"], digest.as_str());
                &descriptor["annotations"]
            })
            .collect();
        assert_eq!(
            names[0]["io.containerd.image.name"],
            "example.test:5000/box:1"
        );
        assert_eq!(names[0]["org.opencontainers.image.ref.name"], "1");
        assert_eq!(names[1]["org.opencontainers.image.ref.name"], "latest");
        let manifest = parse(&read(&index["manifests"][0]));
        let config = parse(&read(&manifest["config"]));
        assert_eq!(config["architecture"], "amd64");
        assert_eq!(config["config"]["Entrypoint"][0], "/bin/sh");
        for (number, layer) in manifest["layers"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            read(layer);
            assert_eq!(config["rootfs"]["diff_ids"][number], layer["digest"]);
        }
    }

    #[test]
    fn a_layer_has_its_folders_first_and_its_entries_in_order() {
        let layers = image().layers;
        let seen = |layer: &Layer| entries(&layer.pack(7).expect("it packs"));
        let directory = |path: &str, mode| (path.to_owned(), mode, Vec::new());
        assert_eq!(
            seen(&layers[0]),
            [
                directory("tmp/", 0o1777),
                directory("usr/", 0o755),
                directory("usr/bin/", 0o755),
                ("usr/bin/box".to_owned(), 0o755, b"program".to_vec()),
            ]
        );
        assert_eq!(
            seen(&layers[1])[1],
            ("bin/sh".to_owned(), 0o777, b"/usr/bin/box".to_vec())
        );
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let twice = [image().pack(7), image().pack(7)].map(|packed| packed.expect("it packs").0);
        assert_eq!(twice[0], twice[1]);
    }
}
