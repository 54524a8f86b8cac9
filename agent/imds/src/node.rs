//! What the server has to be told by whoever runs it: the sides of the agent that it talks to. Each may be behind a socket.
//!
//! The server holds every wait to its own limits and drops the future then. Work that others wait for too has to go on in a task of its own.

use std::net::SocketAddr;

use tokio::sync::watch;

use crate::audit::Way;
use crate::caller::{Attachment, Caller};
use crate::credentials::Fetched;
use crate::listener::Service;
use crate::respond::Proof;
use crate::role::RoleArn;

/// The kernel's word on whose a connection is.
pub trait Origins: Send + Sync + 'static {
    /// Takes the record of the connection from `peer` to `service`, so that it is found once. None: the connection is reset.
    fn take(
        &self,
        peer: SocketAddr,
        service: Service,
    ) -> impl Future<Output = Option<Attachment>> + Send;
}

/// What is known of the pods behind attachments.
pub trait Callers: Send + Sync + 'static {
    /// The caller now, and every change of it. A sender that is dropped says that the attachment is gone: its connections end. None: it was gone before.
    fn watch(&self, attachment: Attachment) -> Option<watch::Receiver<Caller>>;
}

/// Who checks web-identity tokens.
pub trait Proofs: Send + Sync + 'static {
    /// Checks that `token` is valid here and of the pod behind `attachment`. Its form, three parts of base64url, was looked at.
    fn prove(&self, attachment: Attachment, token: &str) -> impl Future<Output = Proof> + Send;
}

/// Where credentials come from.
pub trait Vault: Send + Sync + 'static {
    /// The keys of `role` for the pod behind `attachment`. Dropped at [`CUT`](crate::server::CUT) behind the request's arrival.
    fn credentials(
        &self,
        attachment: Attachment,
        role: &RoleArn,
    ) -> impl Future<Output = Fetched> + Send;

    /// How the pod behind `attachment` gets its keys, for records. Asked when there is one to make, not with every request.
    fn way(&self, attachment: Attachment) -> Option<Way>;
}
