//! An error a person can act on: what happened, why, what to do.
//!
//! Code that knows the remedy returns a [`Failure`]; everything else is an ordinary `anyhow` chain, of
//! which [`three_lines`] takes the outermost context as "what" and the causes as "why".

use std::error::Error;
use std::fmt;

/// The three lines. Lower case, no full stop.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    why: String,
    remedy: String,
}

impl Failure {
    pub(crate) fn new(
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            what: what.into(),
            why: why.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "error: {}\nwhy:   {}\ndo:    {}",
            self.what, self.why, self.remedy
        )
    }
}

impl Error for Failure {}

/// The text for the terminal, whatever the error is made of.
pub(crate) fn three_lines(error: &anyhow::Error) -> String {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.to_string();
    }
    let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
    let why = if causes.is_empty() {
        "no further cause was given".to_owned()
    } else {
        causes.join(": ")
    };
    Failure::new(
        error.to_string(),
        why,
        "read the output above; `cargo xtask help` lists the commands",
    )
    .to_string()
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn every_error_has_three_lines() {
        let plain = anyhow::anyhow!("no such file").context("cannot read abi.lock");
        assert_eq!(
            three_lines(&plain),
            "error: cannot read abi.lock\nwhy:   no such file\n\
             do:    read the output above; `cargo xtask help` lists the commands"
        );
        assert_eq!(three_lines(&anyhow::anyhow!("lonely")).lines().count(), 3);
    }

    #[test]
    fn a_failure_keeps_its_lines_under_added_context() {
        let failure: anyhow::Result<()> = Err(Failure::new("a", "b", "c").into());
        let error = failure.context("while testing").expect_err("is an error");
        assert_eq!(three_lines(&error), "error: a\nwhy:   b\ndo:    c");
    }
}
