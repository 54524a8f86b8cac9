//! The responder: which role a pod has, what it may read of the metadata service, and where credentials come from.
//!
//! ```text
//! objects of a pod -> role (who it is to AWS, or why nobody)
//! connection -> origin -> request -> respond -> one write
//! role -> cache -> sources (web identity, chained, classic) -> STS
//! ```
//! It knows neither Kubernetes types nor kernel maps. `agent/src/kube` reads annotations into `role`'s words; the agent says whose a
//! connection is.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod audit;
pub mod cache;
pub mod caller;
pub mod credentials;
pub mod eks_auth;
pub mod facts;
pub mod jwt;
pub mod link;
pub mod listener;
pub mod metrics;
pub mod node;
pub mod reason;
pub mod request;
pub mod respond;
pub mod response;
pub mod role;
pub mod route;
pub mod secret;
pub mod server;
pub mod sources;
pub mod sts;
pub mod token;
pub mod trust;
pub mod upstream;
