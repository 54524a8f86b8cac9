//! `cargo xtask bench credentials`: what a pod's credentials cost, as a ratio to nginx answering the same bytes. See `portcullis_tests::bench::credentials`.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use portcullis_tests::bench::credentials::{Options, run};

fn main() -> Result<()> {
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u32> {
            let value = arguments.next();
            let value = value.with_context(|| format!("{argument} needs a number"))?;
            value
                .parse()
                .with_context(|| format!("{argument} needs a number"))
        };
        match argument.as_str() {
            "--rounds" => options.rounds = number()?,
            "--millis" => options.each = Duration::from_millis(number()?.into()),
            other => {
                bail!("unknown argument {other}; there are --rounds NUMBER and --millis NUMBER")
            }
        }
    }
    std::io::stdout()
        .write_all(run(&options)?.as_bytes())
        .context("writing the report")
}
