//! What the tests of this folder share, documented like a library.
//!
//! ```text
//! world (random objects and probes) -> oracle (the right answers, slowly)
//!                                   -> compiler, BPF_PROG_TEST_RUN, real packets: must agree
//! scene (a lab and the real agent)  -> traffic, single packets, kernel objects: what happens, what is left
//! cloud (a scene with responder and STS) -> what real AWS clients get in pods, and whose it is
//! cluster (a real one, the real agents)  -> the same through the real API, on several nodes
//! bench (the same, on bare devices)  -> what a packet costs
//! scale (a large cluster, the agent's own stages)  -> what a change costs, what tables weigh
//! ```
//! Oracle, probes and worlds depend on none of the crates under test; a scene uses the lab, and the agent only as a program. `scale` alone calls the
//! agent's stages one by one, because a program does not tell how long each took.

pub mod bench;
pub mod binary;
pub mod cloud;
pub mod cluster;
pub mod directory;
pub mod oracle;
pub mod probe;
pub mod scale;
pub mod scene;
pub mod seeds;
pub mod world;
