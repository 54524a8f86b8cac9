//! `cargo xtask bench packet`: what a packet costs. See `portcullis_tests::bench`.

use anyhow::{Result, bail};
use portcullis_tests::bench::{self, Options};

const USAGE: &str = "\
usage: cargo xtask bench packet [-o table|json] [--rounds N] [--peers-at-most N] [--perfmon-only]";

fn main() -> Result<()> {
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .ok_or_else(|| anyhow::anyhow!("{argument} needs a value\n{USAGE}"))
        };
        match argument.as_str() {
            "-o" | "--output" => {
                options.json = match value()?.as_str() {
                    "table" => false,
                    "json" => true,
                    other => bail!("unknown output {other:?}\n{USAGE}"),
                }
            }
            "--rounds" => options.rounds = value()?.parse()?,
            "--peers-at-most" => options.peers_at_most = value()?.parse()?,
            "--perfmon-only" => options.perfmon_only = true,
            _ => bail!("unknown argument {argument:?}\n{USAGE}"),
        }
    }
    print!("{}", bench::run(&options)?);
    Ok(())
}
