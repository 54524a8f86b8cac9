//! The egress verdict of what a pod sent to a Service, behind the translation.

use aya_ebpf::bindings::__sk_buff;
use portcullis_common::packet::{Parsed, fragment};
use portcullis_common::policy;

use crate::ctx::{Frame, Skb, stage};
use crate::flow::{self, Outcome, view};
use crate::{fragments, tables};

/// The egress verdict that `from_pod` left open, against the real destination. Costs a look-up for each packet of such connections, and none for
/// others: their stage says that they are settled. A global function (see `flow`).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hooks_deferred(raw: *mut __sk_buff, parsed: *const Parsed, l3: u32) -> u64 {
    // SAFETY: the verifier checks the pointer against its type; a null one never comes.
    let (Some(parsed), Some(scratch)) = (unsafe { parsed.as_ref() }, tables::scratch()) else {
        return 0;
    };
    let skb = &Skb::indirect(Frame::new(raw), l3 as usize & 31, scratch);
    // Not an endpoint's, or of one that nobody isolates: nothing waits, until endpoints change.
    let Some(endpoint) = tables::endpoint(scratch, skb.ingress_ifindex()) else {
        return Outcome::pass(0).steady(true).0;
    };
    if tables::policies(endpoint, parsed).0 == policy::id::NONE {
        return Outcome::pass(0).steady(true).0;
    }
    if parsed.fragment >= fragment::LATER {
        return fragments::follow(endpoint, parsed, fragments::place::TRANSLATED).0;
    }
    let confirmed = if skb.stage() == stage::PENDING_CONFIRMED {
        view::CONFIRMED
    } else {
        0
    };
    let outcome = flow::run(
        skb,
        endpoint,
        parsed,
        view::SENT | view::TRANSLATED | confirmed,
    );
    if parsed.fragment == fragment::FIRST && outcome.passes() {
        fragments::remember(endpoint, parsed, fragments::place::TRANSLATED, outcome);
    }
    outcome.0
}
