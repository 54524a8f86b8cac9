//! Classifiers on an interface: the filters that `tc filter show` lists.

use std::io;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    TcAttribute, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
};
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::super::dump::dump;

/// A BPF program that is attached as a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// On packets that leave by the interface; else on those that come in.
    pub egress: bool,
    /// Its name, as whoever attached it wrote it.
    pub name: String,
    /// The kernel's id of the program.
    pub program: u32,
}

/// All of an interface, in the order in which the kernel asks them.
pub fn filters(ifindex: u32) -> io::Result<Vec<Filter>> {
    let mut all = Vec::new();
    for (minor, egress) in [(TcHandle::MIN_INGRESS, false), (TcHandle::MIN_EGRESS, true)] {
        let mut list = TcMessage::with_index(ifindex as i32);
        list.header.parent = TcHandle {
            major: u16::MAX,
            minor,
        };
        dump(
            NETLINK_ROUTE,
            RouteNetlinkMessage::GetTrafficFilter(list),
            |message| {
                if let RouteNetlinkMessage::NewTrafficFilter(filter) = message {
                    all.extend(bpf(&filter.header, &filter.attributes, egress));
                }
            },
        )?;
    }
    Ok(all)
}

fn bpf(header: &TcHeader, attributes: &[TcAttribute], egress: bool) -> Option<Filter> {
    // A chain without filters is listed, too.
    if header.handle == TcHandle::UNSPEC {
        return None;
    }
    let options = attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    let (mut name, mut program) = (String::new(), None);
    for option in options {
        match option {
            TcOption::Bpf(TcFilterBpfOption::ProgName(text)) => name.clone_from(text),
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => program = Some(*id),
            _ => {}
        }
    }
    Some(Filter {
        egress,
        name,
        program: program?,
    })
}
