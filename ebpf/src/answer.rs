//! The guard's answer to a blocked packet: clients fail in milliseconds instead of waiting for a time-out.
//!
//! A TCP SYN gets a RST (RFC 9293 3.10.7.1), everything else an ICMP "administratively prohibited" (RFC 1812 5.2.7.1, RFC 4443 3.1) that quotes it. The
//! packet itself is rewritten and handed to the pod's end of the pair (`bpf_redirect_peer`, Linux 5.10), past `pc_to_pod`. Whatever does not fit drops
//! silently: fragments, segments that are no SYN, IPv4 options, ICMP errors.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{
    bpf_csum_diff, bpf_redirect_peer, bpf_skb_change_tail, bpf_skb_store_bytes,
};
use portcullis_common::addr;
use portcullis_common::conntrack::{TCP, tcp};
use portcullis_common::icmp::{self, Class, ICMP, ICMPV6};
use portcullis_common::packet::{Parsed, fragment};

use crate::ctx::{ETHERNET, Frame, Skb};
use crate::scratch::FRAME;
use crate::tables;

/// Room for the longest answer; what is not written is zero.
type Answer = [u8; FRAME];

/// `TC_ACT_SHOT`.
const DROP: i32 = 2;
/// Where the IP header of the answer begins.
const IP: usize = ETHERNET;

/// Answers a blocked packet. Returns the action for the hook: the redirect, or a drop if there is no answer.
#[inline(always)]
pub fn blocked(skb: &Skb, parsed: &Parsed) -> i32 {
    let answered = match (parsed.family == addr::V4 as u8, parsed.protocol == TCP) {
        _ if parsed.fragment != fragment::WHOLE => 0,
        (_, true) if !tcp::opens(parsed.tcp_flags) => 0,
        (true, _) if parsed.transport != 20 => 0,
        (false, _) if parsed.transport != 40 => 0,
        (_, false)
            if parsed.is_icmp()
                && !matches!(
                    icmp::classify(parsed.protocol, parsed.icmp_type()),
                    Class::Request
                ) =>
        {
            0
        }
        (true, true) => answer_reset_v4(skb.raw()),
        (true, false) => answer_prohibited_v4(skb.raw()),
        (false, true) => answer_reset_v6(skb.raw()),
        (false, false) => answer_prohibited_v6(skb.raw()),
    };
    if answered == 0 {
        return DROP;
    }
    // SAFETY: no memory is passed. The packet stays with the interface that it came from.
    unsafe { bpf_redirect_peer(skb.ifindex(), 0) as i32 }
}

// One global function (see `flow`) for each kind, because together they would not fit the stack. Each returns 1 if the answer stands in the packet.

macro_rules! global {
    ($name:ident, $of:path) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $name(raw: *mut __sk_buff) -> u64 {
            let Some(scratch) = tables::scratch() else {
                return 0;
            };
            let skb = &Skb::indirect(Frame::new(raw), ETHERNET, scratch);
            let new = scratch.frame.put([0; FRAME]);
            u64::from($of(skb, new).is_some())
        }
    };
}

global!(answer_reset_v4, reset_v4);
global!(answer_reset_v6, reset_v6);
global!(answer_prohibited_v4, prohibited_v4);
global!(answer_prohibited_v6, prohibited_v6);

#[inline(always)]
fn reset_v4(skb: &Skb, new: &mut Answer) -> Option<()> {
    let old = skb.read::<54>(0)?;
    ethernet(new, old);
    header_v4(new, old, 20, TCP);
    segment::<54, 34>(new, old);
    let sum = checksum::<26, 54>(new, u16::from(TCP) + 20);
    put(new, 50, sum);
    send::<54>(skb, new)
}

#[inline(always)]
fn reset_v6(skb: &Skb, new: &mut Answer) -> Option<()> {
    let old = skb.read::<74>(0)?;
    ethernet(new, old);
    header_v6(new, old, 20, TCP);
    segment::<74, 54>(new, old);
    let sum = checksum::<22, 74>(new, u16::from(TCP) + 20);
    put(new, 70, sum);
    send::<74>(skb, new)
}

/// Destination unreachable, communication administratively prohibited: type 3, code 13; quotes the IP header and eight bytes.
#[inline(always)]
fn prohibited_v4(skb: &Skb, new: &mut Answer) -> Option<()> {
    let old = skb.read::<42>(0)?;
    ethernet(new, old);
    header_v4(new, old, 36, ICMP);
    new[34] = 3;
    new[35] = 13;
    new[42..70].copy_from_slice(&old[14..42]);
    let sum = checksum::<34, 70>(new, 0);
    put(new, 36, sum);
    send::<70>(skb, new)
}

/// Destination unreachable, communication administratively prohibited: type 1, code 1; quotes likewise.
#[inline(always)]
fn prohibited_v6(skb: &Skb, new: &mut Answer) -> Option<()> {
    let old = skb.read::<62>(0)?;
    ethernet(new, old);
    header_v6(new, old, 56, ICMPV6);
    new[54] = 1;
    new[55] = 1;
    new[62..110].copy_from_slice(&old[14..62]);
    let sum = checksum::<22, 110>(new, u16::from(ICMPV6) + 56);
    put(new, 56, sum);
    send::<110>(skb, new)
}

#[inline(always)]
fn ethernet<const N: usize>(new: &mut Answer, old: &[u8; N]) {
    new[..6].copy_from_slice(&old[6..12]);
    new[6..12].copy_from_slice(&old[..6]);
    new[12] = old[12];
    new[13] = old[13];
}

/// An IPv4 header with the addresses exchanged.
#[inline(always)]
fn header_v4<const N: usize>(new: &mut Answer, old: &[u8; N], payload: u16, protocol: u8) {
    new[IP] = 0x45;
    put(new, IP + 2, 20 + payload);
    new[IP + 6] = 0x40;
    new[IP + 8] = 64;
    new[IP + 9] = protocol;
    new[IP + 12..IP + 16].copy_from_slice(&old[IP + 16..IP + 20]);
    new[IP + 16..IP + 20].copy_from_slice(&old[IP + 12..IP + 16]);
    put(new, IP + 10, checksum::<IP, { IP + 20 }>(new, 0));
}

/// An IPv6 header likewise.
#[inline(always)]
fn header_v6<const N: usize>(new: &mut Answer, old: &[u8; N], payload: u16, protocol: u8) {
    new[IP] = 0x60;
    put(new, IP + 4, payload);
    new[IP + 6] = protocol;
    new[IP + 7] = 64;
    new[IP + 8..IP + 24].copy_from_slice(&old[IP + 24..IP + 40]);
    new[IP + 24..IP + 40].copy_from_slice(&old[IP + 8..IP + 24]);
}

/// A RST that acknowledges the SYN at `AT`.
#[inline(always)]
fn segment<const N: usize, const AT: usize>(new: &mut Answer, old: &[u8; N]) {
    new[AT..AT + 2].copy_from_slice(&old[AT + 2..AT + 4]);
    new[AT + 2..AT + 4].copy_from_slice(&old[AT..AT + 2]);
    let next =
        u32::from_be_bytes([old[AT + 4], old[AT + 5], old[AT + 6], old[AT + 7]]).wrapping_add(1);
    new[AT + 8..AT + 12].copy_from_slice(&next.to_be_bytes());
    new[AT + 12] = 5 << 4;
    new[AT + 13] = tcp::RST | tcp::ACK;
}

/// The checksum (RFC 1071) of the bytes from `FROM` (addresses of the pseudo-header, or the ICMP header) to `TO`, and of the pseudo-header's number
/// `more`. By a helper: a loop over the stack is nothing that the verifier admits without `CAP_PERFMON`.
#[inline(always)]
fn checksum<const FROM: usize, const TO: usize>(bytes: &Answer, more: u16) -> u16 {
    const { assert!(FROM < TO && TO <= FRAME && (TO - FROM).is_multiple_of(4)) };
    // SAFETY: reads `TO - FROM` bytes of `bytes`, and nothing of the null pointer, whose length is 0. It cannot fail on lengths like these.
    let words = unsafe {
        let from = bytes.as_ptr().add(FROM).cast_mut();
        bpf_csum_diff(core::ptr::null_mut(), 0, from.cast(), (TO - FROM) as u32, 0)
    };
    let mut sum = u64::from(words as u32) + u64::from(more.to_be());
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    u16::from_be(!(sum as u16))
}

#[inline(always)]
fn put(bytes: &mut Answer, at: usize, value: u16) {
    let [hi, lo] = value.to_be_bytes();
    bytes[at] = hi;
    bytes[at + 1] = lo;
}

/// Puts the answer in the place of the packet.
#[inline(always)]
fn send<const N: usize>(skb: &Skb, frame: &Answer) -> Option<()> {
    // SAFETY: the helpers check lengths against the packet; `frame` has `N` bytes or more.
    let failed = unsafe {
        bpf_skb_change_tail(skb.raw(), N as u32, 0) != 0
            || bpf_skb_store_bytes(skb.raw(), 0, frame.as_ptr().cast(), N as u32, 0) != 0
    };
    (!failed).then_some(())
}
