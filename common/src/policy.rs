//! The verdict of a compiled policy: at most two look-ups, however many policies, rules or tiers stood behind it.
//!
//! ```text
//! peer address -> identity -> cell of (policy, identity), else the policy's cell for everyone else -> ranges by protocol and port
//! ```
//! The same function runs in the kernel and, over tables in memory, in the agent. What is missing or was never written denies.

use crate::abi::{Cell, L4Set};
use crate::addr::Addr;
use crate::reason;

/// What to do; 0 denies.
pub mod action {
    /// Drop.
    pub const DENY: u32 = 0;
    /// Pass.
    pub const ALLOW: u32 = 1;
    /// Ask the port set.
    pub const BY_PORT: u32 = 2;
}

/// Reserved policy ids; compiled policies come after them.
pub mod id {
    /// Not isolated: everything passes.
    pub const NONE: u32 = 0;
    /// Nothing passes: endpoints without tables.
    pub const CLOSED: u32 = 1;
    /// The first one for compiled policies.
    pub const FIRST: u32 = 2;
}

/// Reserved identity: addresses that no rule in use mentions.
pub const WORLD: u32 = 1;

/// Where tables are read from.
pub trait Lookup {
    /// The identity of an address: exact, else by the longest prefix, else [`WORLD`].
    fn identity(&self, addr: &Addr) -> u32;
    /// The policy's cell for an identity.
    fn row(&self, policy: u32, identity: u32) -> Option<Cell>;
    /// The policy's cell for identities without a row.
    fn default(&self, policy: u32) -> Option<Cell>;
    /// Decision of a port set.
    fn ports(&self, set: u32, protocol: u8, port: u16) -> Decision;
}

/// Outcome of a policy for one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    /// Whether it passes.
    pub allow: bool,
    /// The deciding rule, 0 = none.
    pub rule: u32,
    /// Why: [`reason`].
    pub reason: u8,
}

impl Decision {
    /// Nobody isolates the endpoint.
    pub const NOT_ISOLATED: Self = Self {
        allow: true,
        rule: 0,
        reason: reason::NOT_ISOLATED,
    };
    /// There is nothing to decide by.
    pub const NOT_READY: Self = Self {
        allow: false,
        rule: 0,
        reason: reason::NOT_READY,
    };

    /// From an [`action`] (not `BY_PORT`) and a rule.
    #[inline(always)]
    pub const fn of(action: u32, rule: u32) -> Self {
        if action == action::ALLOW {
            return Self {
                allow: true,
                rule,
                reason: reason::ALLOW_RULE,
            };
        }
        Self {
            allow: false,
            rule,
            reason: if rule == 0 {
                reason::DEFAULT_DENY
            } else {
                reason::DENY_RULE
            },
        }
    }
}

/// What `policy` says of a connection with `peer` to destination `port` (ICMP: type << 8 | code).
#[inline(always)]
pub fn decide<T: Lookup>(
    tables: &T,
    policy: u32,
    peer: &Addr,
    protocol: u8,
    port: u16,
) -> Decision {
    if policy == id::NONE {
        return Decision::NOT_ISOLATED;
    }
    if policy == id::CLOSED {
        return Decision::NOT_READY;
    }
    let identity = tables.identity(peer);
    let Some(cell) = tables
        .row(policy, identity)
        .or_else(|| tables.default(policy))
    else {
        return Decision::NOT_READY;
    };
    if cell.valid == 0 {
        return Decision::NOT_READY;
    }
    if cell.action == action::BY_PORT {
        return tables.ports(cell.rule_or_set, protocol, port);
    }
    Decision::of(cell.action, cell.rule_or_set)
}

/// The inline ranges of a set.
#[inline(always)]
pub fn match_ranges(set: &L4Set, protocol: u8, port: u16) -> Decision {
    if set.valid == 0 {
        return Decision::NOT_READY;
    }
    for range in &set.ranges {
        if range.protocol == 0 {
            break;
        }
        if range.protocol == protocol && range.first <= port && port <= range.last {
            return Decision::of(u32::from(range.action), range.rule);
        }
    }
    Decision::of(set.otherwise, set.otherwise_rule)
}
