//! `cargo xtask bench policy`: what a change costs in a large cluster. See `portcullis_tests::scale`.

use anyhow::{Result, bail};
use portcullis_tests::scale::{self, Options};

const USAGE: &str =
    "usage: cargo xtask bench policy [-o table|json] [--rounds N] [--pods N] [--policies N]";

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
            "--pods" => options.scale.pods = value()?.parse()?,
            "--policies" => options.scale.policies = value()?.parse()?,
            _ => bail!("unknown argument {argument:?}\n{USAGE}"),
        }
    }
    print!("{}", scale::run(&options)?);
    Ok(())
}
