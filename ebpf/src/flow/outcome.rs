//! What a step decided, as one number: global functions can answer with no more.

/// What a step decided, in one register: reason in bits 0-7, 1 << 8 = passes, 1 << 9 = steady; the upper half holds the entry's state of what passes, the rule of what
/// does not.
#[derive(Clone, Copy)]
#[must_use]
pub struct Outcome(pub u64);

impl Outcome {
    /// Passes; `state` of its entry, 0 without one.
    #[inline(always)]
    pub const fn pass(state: u32) -> Self {
        Self(1 << 8 | (state as u64) << 32)
    }

    /// Drops.
    #[inline(always)]
    pub const fn deny(reason: u8, rule: u32) -> Self {
        Self(reason as u64 | (rule as u64) << 32)
    }

    /// The same, with a word on the next packet of this kind: it passes too, and changes nothing; or it is denied too, unless a connection is opened
    /// meanwhile to which it belongs.
    #[inline(always)]
    pub const fn steady(self, steady: bool) -> Self {
        Self(self.0 | (steady as u64) << 9)
    }

    /// Whether the next packet of this kind meets the same verdict, and changes nothing.
    #[inline(always)]
    pub const fn is_steady(self) -> bool {
        self.0 >> 9 & 1 == 1
    }

    /// Whether it passes.
    #[inline(always)]
    pub const fn passes(self) -> bool {
        self.0 >> 8 & 1 == 1
    }

    /// State of the entry, or the rule.
    #[inline(always)]
    pub const fn detail(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// `common::reason` of a drop.
    #[inline(always)]
    pub const fn reason(self) -> u8 {
        self.0 as u8
    }
}

impl From<Result<(), u8>> for Outcome {
    #[inline(always)]
    fn from(result: Result<(), u8>) -> Self {
        match result {
            Ok(()) => Self::pass(0),
            Err(reason) => Self::deny(reason, 0),
        }
    }
}
