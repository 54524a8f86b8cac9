//! The agent's side of the responder: where it listens, how it gets its sockets, whose a connection is.
//!
//! ```text
//! pod -> guarded address -> (pc_from_pod) -> an address of the node's own -> listener -> responder
//! responder --peer's address and port--> agent: pc_origins -> whose it is
//! ```
//! The responder parses what pods send, so it has no capability, no token and no file: all that it knows it gets over one Unix socket.

pub mod address;
pub mod asked;
pub mod host;
pub mod link;
pub mod listeners;
pub mod origin;
pub mod process;
pub mod tokens;
