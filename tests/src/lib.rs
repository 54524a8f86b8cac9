//! What the tests of this folder share, documented like a library.
//!
//! ```text
//! world (random objects and probes) -> oracle (the right answers, slowly)
//!                                   -> compiler, BPF_PROG_TEST_RUN, real packets: must agree
//! ```
//! Nothing here depends on the crates under test.

pub mod oracle;
pub mod probe;
pub mod world;
