//! One cell: the walk through the rules that fit a class, over all protocols and ports at once.
//!
//! A point is `protocol << 16 | port`. One more point, behind the last protocol, stands for the protocol that no rule names: what is decided
//! there is the cell's `otherwise`. The walk (policy-spec 3.3, 5.1):
//! 1. a rule takes what it matches of what is still open: Allow and Deny decide it, Pass puts it aside;
//! 2. at the end of a tier that denies, what is open is denied; else it stays open;
//! 3. what was put aside is open again in the next tier;
//! 4. what is open behind the last tier is allowed.

use std::collections::BTreeMap;

use crate::model::{AtEnd, PortMatch, Ports, Protocol, RuleAction};
use crate::tables::{Cell, Decision, PortRange, RuleRef};

/// First and last point.
pub(crate) type Span = (u32, u32);

/// The protocol that no rule names.
const UNNAMED: u32 = 256 << 16;

/// Port names that mean something where a rule is resolved, and their numbers.
pub(crate) type Names<'a> = [(Protocol, &'a str, u16)];

/// The points that `ports` match, with names resolved by `names`.
pub(crate) fn spans(ports: &Ports, names: &Names<'_>) -> Vec<Span> {
    let Ports::OneOf(ports) = ports else {
        return vec![(0, UNNAMED)];
    };
    let mut spans = Vec::with_capacity(ports.len());
    for port in ports {
        let at =
            |first: u16, last: u16| (point(port.protocol.0, first), point(port.protocol.0, last));
        match &port.port {
            PortMatch::All => spans.push(at(0, u16::MAX)),
            PortMatch::Range(first, last) if first <= last => spans.push(at(*first, *last)),
            PortMatch::Range(..) => {}
            PortMatch::Named(wanted) => spans.extend(
                names
                    .iter()
                    .filter(|(protocol, name, _)| *protocol == port.protocol && name == wanted)
                    .map(|(_, _, number)| at(*number, *number)),
            ),
        }
    }
    spans
}

/// The point of a packet.
pub(crate) fn point(protocol: u8, port: u16) -> u32 {
    u32::from(protocol) << 16 | u32::from(port)
}

/// What happens to a span; `rule` is the caller's number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fate {
    allow: bool,
    rule: Option<u32>,
}

/// The state of a walk.
pub(crate) struct Walk {
    /// First point to last point; disjoint.
    open: BTreeMap<u32, u32>,
    aside: Vec<Span>,
    decided: Vec<(Span, Fate)>,
}

impl Walk {
    pub(crate) fn new() -> Self {
        Self {
            open: BTreeMap::from([(0, UNNAMED)]),
            aside: Vec::new(),
            decided: Vec::new(),
        }
    }

    /// The next rule of the tier.
    pub(crate) fn rule(&mut self, action: RuleAction, spans: &[Span], rule: u32) {
        for span in spans {
            let taken = self.take(*span);
            match action {
                RuleAction::Pass => self.aside.extend(taken),
                RuleAction::Allow | RuleAction::Deny => {
                    let fate = Fate {
                        allow: action == RuleAction::Allow,
                        rule: Some(rule),
                    };
                    self.decided
                        .extend(taken.into_iter().map(|span| (span, fate)));
                }
            }
        }
    }

    /// The tier ends.
    pub(crate) fn end_of_tier(&mut self, at_end: AtEnd) {
        if at_end == AtEnd::Deny {
            self.decide_open(false);
        }
        self.open.extend(self.aside.drain(..));
    }

    /// All tiers are through; `name` turns the caller's numbers into references.
    pub(crate) fn finish(mut self, name: impl Fn(u32) -> RuleRef) -> Cell {
        self.decide_open(true);
        let mut decided = self.decided;
        decided.sort_unstable_by_key(|(span, _)| *span);
        let decision = |fate: Fate| Decision {
            allow: fate.allow,
            rule: fate.rule.map(&name),
        };
        // Every point is decided exactly once, so the last span is the one that holds the unnamed protocol.
        let otherwise = decided.last().map_or(
            Fate {
                allow: false,
                rule: None,
            },
            |(_, fate)| *fate,
        );
        let mut merged: Vec<(Span, Fate)> = Vec::new();
        for (span, fate) in decided.into_iter().filter(|(_, fate)| *fate != otherwise) {
            for (first, last) in by_protocol(span) {
                match merged.last_mut() {
                    Some(((_, end), same))
                        if *same == fate && *end + 1 == first && *end >> 16 == first >> 16 =>
                    {
                        *end = last;
                    }
                    _ => merged.push(((first, last), fate)),
                }
            }
        }
        if merged.is_empty() {
            return Cell::All(decision(otherwise));
        }
        let ranges = merged
            .into_iter()
            .map(|((first, last), fate)| PortRange {
                protocol: (first >> 16) as u8,
                first: first as u16,
                last: last as u16,
                decision: decision(fate),
            })
            .collect();
        Cell::ByPort {
            ranges,
            otherwise: decision(otherwise),
        }
    }

    fn decide_open(&mut self, allow: bool) {
        let fate = Fate { allow, rule: None };
        self.decided.extend(
            std::mem::take(&mut self.open)
                .into_iter()
                .map(|span| (span, fate)),
        );
    }

    /// Cuts the open part of a span out and returns it.
    fn take(&mut self, (first, last): Span) -> Vec<Span> {
        // Open spans are disjoint: only the last one that begins before `first` can reach into it.
        let from = self
            .open
            .range(..first)
            .next_back()
            .filter(|(_, end)| **end >= first);
        let from = from.map_or(first, |(start, _)| *start);
        let touched: Vec<Span> = self
            .open
            .range(from..=last)
            .map(|(start, end)| (*start, *end))
            .collect();
        let mut taken = Vec::with_capacity(touched.len());
        for (start, end) in touched {
            self.open.remove(&start);
            if start < first {
                self.open.insert(start, first - 1);
            }
            if end > last {
                self.open.insert(last + 1, end);
            }
            taken.push((start.max(first), end.min(last)));
        }
        taken
    }
}

/// Cuts a span where the protocol changes and drops the point of the unnamed one.
fn by_protocol((first, last): Span) -> impl Iterator<Item = Span> {
    let last = last.min(UNNAMED - 1);
    (first >> 16..=last >> 16)
        .map(move |protocol| (first.max(protocol << 16), last.min(protocol << 16 | 0xffff)))
}
