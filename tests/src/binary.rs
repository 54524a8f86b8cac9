//! The program under test: the `portcullis` binary, as a person would run it.

use std::env;
use std::path::PathBuf;

/// The binary that `cargo xtask test` built.
#[must_use]
pub fn portcullis() -> PathBuf {
    env::var_os("PORTCULLIS_BIN")
        .map(PathBuf::from)
        .expect("PORTCULLIS_BIN names no binary: run the tests with `cargo xtask test`")
}
