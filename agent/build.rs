//! Embeds the BPF object. `cargo xtask build` passes it in `PORTCULLIS_BPF`; plain cargo gets an empty one, so that editors and host tests work
//! anywhere, and an agent built so refuses to start.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=PORTCULLIS_BPF");
    let object = env::var_os("PORTCULLIS_BPF").map_or_else(|| {
        println!("cargo::warning=no PORTCULLIS_BPF: the binary gets no kernel programs and will refuse to start; use `cargo xtask build`");
        let stub = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("stub.o");
        fs::write(&stub, []).expect("OUT_DIR is writable");
        stub
    }, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    println!(
        "cargo::rustc-env=PORTCULLIS_BPF_OBJECT={}",
        object.display()
    );
}
