//! One list from the kernel by netlink: asked for, read to its end, message by message.

use std::fmt::Debug;
use std::io;

use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::sys::{Socket, SocketAddr};

/// One answer of the kernel fits: it fills at most 32 KiB at a time.
const ANSWER: usize = 64 << 10;

/// Hands each entry of a list to `each`. Messages that cannot be read are left out: another kernel may say what we do not know.
pub(super) fn dump<T>(protocol: isize, request: T, mut each: impl FnMut(T)) -> io::Result<()>
where
    T: NetlinkSerializable + NetlinkDeserializable + Debug,
    NetlinkPayload<T>: From<T>,
{
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::from(request));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answer = vec![0; ANSWER];
    loop {
        let length = socket.recv(&mut &mut answer[..], 0)?;
        let mut rest = &answer[..length];
        while let Some(length) = rest.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)) {
            let length = length as usize;
            let message = rest.get(..length).ok_or(io::ErrorKind::UnexpectedEof)?;
            match NetlinkMessage::<T>::deserialize(message).map(|message| message.payload) {
                Ok(NetlinkPayload::Done(_)) => return Ok(()),
                Ok(NetlinkPayload::Error(error)) => return Err(error.to_io()),
                Ok(NetlinkPayload::InnerMessage(entry)) => each(entry),
                Ok(_) | Err(_) => {}
            }
            // Messages begin at multiples of four bytes, and have a header of sixteen.
            let next = length.max(16).next_multiple_of(4);
            rest = rest.get(next..).unwrap_or_default();
        }
    }
}
