//! The policy compiler: objects in our own words in, symbolic tables out.
//!
//! ```text
//! model::World -> asked (by the rules in force) -> index (who matches which selector) -> identity (address classes) -> compile -> tables::Tables
//!                                                                                                                       \-> explain
//! ```
//! `lint` looks for what is hardly meant in the same world, with the same index; it makes no verdicts.
//!
//! Pure: no clock, randomness, thread, socket, file or hash-ordered container. The same world gives the same tables, in whatever order its
//! objects arrived. It knows neither Kubernetes types nor kernel maps: `agent/src/kube` converts objects into `model`, `agent/src/dataplane`
//! turns `tables` into map writes.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod asked;
mod cell;
mod compile;
mod decide;
pub mod explain;
#[cfg(test)]
mod fixture;
mod govern;
mod identity;
mod index;
pub mod lint;
pub mod model;
pub mod probe;
mod selector;
pub mod shared;
pub mod tables;
mod words;

pub use compile::{Compiler, compile};
pub use govern::DEFAULT_TIER;
