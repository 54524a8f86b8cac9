//! The images of a guest, imported before it boots: here that takes seconds, in the guest minutes.
//!
//! A containerd of its own imports them into the folder that the guest's will have on its disk. What it keeps
//! there names no paths and no machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::cgroup::Hierarchies;
use crate::cluster::daemon::{Daemon, create, write};
use crate::cluster::load;
use crate::cluster::names::Node;
use crate::cluster::node::Fittings;
use crate::cluster::place::Place;

const LIMIT: Duration = Duration::from_mins(1);

/// Makes the folder.
pub(super) fn make(
    node: Node,
    fittings: &Fittings<'_>,
    hierarchies: &Hierarchies,
) -> Result<PathBuf> {
    let store = node.folder().join("images");
    let state = node.folder().join("images-state");
    create(&state)?;
    let socket = state.join("containerd.sock");
    let settings = state.join("containerd.toml");
    write(&settings, settings_of(&store, &state, &socket))?;
    let place = Place::machine(hierarchies, node);
    let mut containerd = Daemon::start(
        &format!("{}-images", node.name()),
        &place,
        &fittings.programs.find("containerd")?,
        ["--config".as_ref(), settings.as_os_str()],
        fittings.path,
    )?;
    containerd.wait_until("no containerd imports images", LIMIT, || {
        load::answers(&place, fittings.path, &socket)
    })?;
    load::import(&place, fittings.path, &socket, fittings.images)?;
    containerd.end()?;
    std::fs::remove_dir_all(&state)
        .with_context(|| format!("cannot remove {}", state.display()))?;
    Ok(store)
}

/// It runs nothing and serves nobody else.
fn settings_of(store: &Path, state: &Path, socket: &Path) -> String {
    let (store, state, socket) = (store.display(), state.display(), socket.display());
    format!(
        r#"version = 3
root = "{store}"
state = "{state}/run"
disabled_plugins = [
  "io.containerd.cri.v1.images",
  "io.containerd.cri.v1.runtime",
  "io.containerd.grpc.v1.cri",
  "io.containerd.internal.v1.opt",
  "io.containerd.nri.v1.nri",
]
[grpc]
  address = "{socket}"
"#
    )
}
