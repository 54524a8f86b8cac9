//! Fuzzers for what strangers write: packets, which pods and the network send, and policies, which users write.
//!
//! ```text
//! corpus/, crashes/, a fuzzer's own finds --bytes--> packet() | policy() --panic--> a promise is broken
//! ```
//! Both are plain functions of bytes. `cargo xtask fuzz` gives them to libFuzzer, which makes up bytes by watching what they reach; the test of this
//! package gives them the committed files and random changes of these. What is promised stands at the top of either module.

mod packet;
mod policy;

pub use packet::packet;
pub use policy::policy;
