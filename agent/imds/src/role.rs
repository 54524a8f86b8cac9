//! Which role a pod has, from which line of the precedence table, or why it has none.
//!
//! ```text
//! annotations -> Reader -> Pod, `ServiceAccount`, Namespace -\
//!                                         settings --------+-> decide -> Decision
//! ```
//! Pure functions: no clock, no I/O, no Kubernetes type. Of where credentials come from nothing is known here but which ways can carry what.
//!
//! Invariant: a value that is refused or malformed ends the search. It never falls through to a weaker line, so that a mistake in an annotation
//! cannot give a pod the role of somebody else.
mod arn;
mod base;
mod decide;
mod decision;
mod imds_v1;
mod malformed;
mod object;
mod pattern;
mod reader;
mod refusal;
mod restriction;
mod session;
mod source;

pub use arn::{ArnError, RoleArn};
pub use base::{BaseArn, ResolveError, resolve};
pub use decide::{Asked, Discovered, Settings, decide};
pub use decision::{Decision, Grant, Outcome, Source, Waiting, WebIdentity};
pub use imds_v1::{Access, Imdsv1, imds_v1_allowed};
pub use malformed::{Malformed, Problem};
pub use object::{Mode, Namespace, Pod, Reading, RoleSource, ServiceAccount, Wanted};
pub use pattern::{Format, Pattern, PatternError, Scope};
pub use reader::{Annotations, Keys, Reader};
pub use refusal::{Reason, Refusal};
pub use restriction::{Require, Restriction, Restrictions};
pub use source::SourceKind;
