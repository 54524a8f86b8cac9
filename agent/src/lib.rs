//! Portcullis, the agent: watches, world loop, dataplane, CLI. `main.rs` is a thin shell around this library.

pub mod api;
pub mod audit;
pub mod bridge;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod commands;
pub mod dataplane;
pub mod endpoint;
pub mod failure;
pub mod flowlog;
pub mod kube;
#[cfg(feature = "lab")]
pub mod lab;
pub mod metrics;
pub mod pipe;
pub mod reconcile;
pub mod report;
pub mod responder;
pub mod run;
pub mod secrecy;
pub mod settings;
#[cfg(feature = "lab")]
pub mod test_run;
pub mod token_reader;
pub mod world;
