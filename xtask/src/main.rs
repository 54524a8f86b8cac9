//! The commands of this repository: `cargo xtask build`, `image`, `test`, `lint`, `abi`, `demo`,
//! `cluster`, `conformance`, `bench`, `fuzz`.
//!
//! Each command finds or installs what it lacks and says so first; what it cannot install ends in an
//! error of three lines. Only this file prints errors and chooses the exit code: 0 done, 1 the answer
//! is negative or something failed, 2 wrong usage (clap's).

mod abi;
mod bench;
mod build;
mod cluster;
mod command;
mod conformance;
mod demo;
mod elf;
mod failure;
mod fuzz;
mod guest;
mod image;
mod initramfs;
mod kernel;
mod layout;
mod lint;
mod node;
mod object;
mod oci;
mod python;
mod setup;
mod tally;
mod test;
mod tree;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Build, test, lint and measure Portcullis"
)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build the BPF object and the agent that embeds it
    Build {
        /// One static, stripped file at target/release/portcullis
        #[arg(long)]
        release: bool,
    },
    /// Build the agent's image, target/image/portcullis.tar
    Image,
    /// Run the tests: all rungs, or one rung or file, or those whose name holds a filter
    Test(test::Options),
    /// Check format, clippy, docs, the record contract and the rules of the tree
    Lint,
    /// Check that a changed record came with a new `ABI_VERSION`
    Abi {
        /// Write common/abi.lock anew
        #[arg(long)]
        bless: bool,
    },
    /// Build what is lacking and run `portcullis lab demo` (needs root)
    Demo {
        /// Arguments for `portcullis lab demo`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// A real Kubernetes cluster on this machine, for contributors and for trying things (needs root)
    #[command(subcommand)]
    Cluster(cluster::Verb),
    /// Let upstream suites judge Portcullis on a real cluster (needs root)
    #[command(subcommand)]
    Conformance(conformance::Verb),
    /// Run a benchmark of tests/src/bin: `packet` runs `bench-packet`
    Bench {
        /// Name of the benchmark, without `bench-`
        name: String,
        /// Arguments for the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Let libFuzzer make up packets and policies that break a promise
    Fuzz(fuzz::Options),
}

fn main() -> ExitCode {
    let answer = match Cli::parse().command {
        Verb::Build { release } => build::run(release).map(|()| true),
        Verb::Image => image::run().map(|()| true),
        Verb::Test(options) => test::run(&options),
        Verb::Lint => lint::run(),
        Verb::Abi { bless } => abi::run(bless).map(|()| true),
        Verb::Demo { args } => demo::run(&args),
        Verb::Cluster(verb) => cluster::run(&verb).map(|()| true),
        Verb::Conformance(verb) => conformance::run(&verb),
        Verb::Bench { name, args } => bench::run(&name, &args),
        Verb::Fuzz(options) => fuzz::run(&options),
    };
    match answer {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            command::say(&failure::three_lines(&error));
            ExitCode::FAILURE
        }
    }
}
