//! The session tokens of `IMDSv2`, of which nothing is stored.
//!
//! ```text
//! version 1 | key 4 | expiry 8 | nonce 16 | HMAC-SHA-256 32     61 bytes, 82 characters of base64url
//! ```
//! The HMAC covers the fields in front of it and the attachment, so a token is good for one pod's attachment and for nobody else. It does not cover the
//! pod: a token is given before it is known whose connection it is. The caller keeps the keys' bytes, so tokens outlive the process.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::hmac;
use sha2::{Digest as _, Sha256};

use crate::caller::Attachment;

/// The longest life of a token, in seconds.
pub const LONGEST_TTL_SECS: u32 = 21600;
/// The longest text that can be a token.
pub const LONGEST_TOKEN: usize = 128;

const VERSION: u8 = 1;
const FIELDS: usize = 1 + 4 + 8 + 16;
const WHOLE: usize = FIELDS + 32;

/// The bytes of a key.
pub type KeyBytes = [u8; 32];

/// The keys of a node: tokens are made with the current one and good with the previous one too.
#[derive(Debug, Clone)]
pub struct Keys {
    current: Key,
    previous: Option<Key>,
}

#[derive(Debug, Clone)]
struct Key {
    /// Tells which of two keys a token was made with; derived, so that it needs no place in the file.
    id: [u8; 4],
    key: hmac::Key,
}

impl Key {
    fn new(bytes: &KeyBytes) -> Self {
        let hash = Sha256::new()
            .chain_update(b"portcullis session token key")
            .chain_update(bytes)
            .finalize();
        let mut id = [0; 4];
        id.copy_from_slice(&hash[..4]);
        Self {
            id,
            key: hmac::Key::new(hmac::HMAC_SHA256, bytes),
        }
    }
}

impl Keys {
    /// The current key and the one before it.
    #[must_use]
    pub fn new(current: &KeyBytes, previous: Option<&KeyBytes>) -> Self {
        Self {
            current: Key::new(current),
            previous: previous.map(Key::new),
        }
    }

    /// Makes `next` the current key. Tokens of the key before the last are void from now on.
    pub fn rotate(&mut self, next: &KeyBytes) {
        self.previous = Some(std::mem::replace(&mut self.current, Key::new(next)));
    }

    /// A token for `attachment`. No two calls may have the same `nonce`; it need not be secret.
    #[must_use]
    pub fn mint(
        &self,
        attachment: Attachment,
        ttl_secs: u32,
        now: Timestamp,
        nonce: [u8; 16],
    ) -> String {
        let expiry = now.as_second() + i64::from(ttl_secs);
        let mut token = Vec::with_capacity(WHOLE);
        token.push(VERSION);
        token.extend(self.current.id);
        token.extend(expiry.to_be_bytes());
        token.extend(nonce);
        let tag = hmac::sign(&self.current.key, &signed(&token, attachment));
        token.extend(tag.as_ref());
        URL_SAFE_NO_PAD.encode(token)
    }

    /// Whether `token` is one of `attachment`'s and has not expired. A life longer than any that is given means that the clock went back: not good either.
    #[must_use]
    pub fn is_good(&self, token: &str, attachment: Attachment, now: Timestamp) -> bool {
        if token.len() > LONGEST_TOKEN {
            return false;
        }
        let Ok(token) = URL_SAFE_NO_PAD.decode(token) else {
            return false;
        };
        let Some((fields, tag)) = token.split_at_checked(FIELDS) else {
            return false;
        };
        let (version, id) = (fields[0], &fields[1..5]);
        let keys = std::iter::once(&self.current).chain(&self.previous);
        let Some(key) = keys.into_iter().find(|key| key.id.as_slice() == id) else {
            return false;
        };
        let mut expiry = [0; 8];
        expiry.copy_from_slice(&fields[5..13]);
        let left = i64::from_be_bytes(expiry).saturating_sub(now.as_second());
        // In constant time, and before anything that the fields say is believed.
        hmac::verify(&key.key, &signed(fields, attachment), tag).is_ok()
            && version == VERSION
            && (1..=i64::from(LONGEST_TTL_SECS)).contains(&left)
    }
}

/// Fields have one length, so the attachment behind them cannot be mistaken for a part of them.
fn signed(fields: &[u8], attachment: Attachment) -> Vec<u8> {
    [
        b"portcullis session token".as_slice(),
        fields,
        &attachment.0,
    ]
    .concat()
}

/// Reads a TTL: digits alone, 1 to 21600.
#[must_use]
pub fn ttl(text: &str) -> Option<u32> {
    let is_number =
        !text.is_empty() && text.len() <= 10 && text.bytes().all(|byte| byte.is_ascii_digit());
    let secs: u32 = is_number.then(|| text.parse().ok())??;
    (1..=LONGEST_TTL_SECS).contains(&secs).then_some(secs)
}

#[cfg(test)]
mod tests;
