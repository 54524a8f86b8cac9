//! Firewall rules that name a guarded metadata address, and chains of other policy agents: in nftables, where `iptables-nft` writes too, and in the tables
//! of the older `iptables`.

use std::collections::BTreeSet;
use std::io;

use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use portcullis_common::{addr, guard};
use rtnetlink::packet_core::Nla as _;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;

use super::super::dump::dump;
use super::{Rule, owner, xtables};

/// Everything of this network namespace, each once.
pub fn rules() -> io::Result<BTreeSet<Rule>> {
    let mut found = BTreeSet::new();
    nft(
        NfTablesMessage::GetRule(RuleMessage {
            attributes: Vec::new(),
        }),
        |message| {
            if let NfTablesMessage::NewRule(rule) = message {
                found.extend(metadata(&rule.attributes));
            }
        },
    )?;
    nft(
        NfTablesMessage::GetChain(ChainMessage {
            attributes: Vec::new(),
        }),
        |message| {
            if let NfTablesMessage::NewChain(chain) = message {
                let name = chain
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        ChainAttribute::Name(name) => Some(name),
                        _ => None,
                    });
                found.extend(name.and_then(|name| owner(name)).map(Rule::Agent));
            }
        },
    )?;
    found.extend(xtables::rules()?);
    Ok(found)
}

fn nft(request: NfTablesMessage, mut each: impl FnMut(NfTablesMessage)) -> io::Result<()> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    dump(
        NETLINK_NETFILTER,
        NetfilterMessage::new(header, request),
        |message| {
            if let NetfilterMessageInner::NfTables(message) = message.inner {
                each(message);
            }
        },
    )
}

/// A rule whose expressions hold a guarded address.
fn metadata(attributes: &[RuleAttribute]) -> Option<Rule> {
    let (mut table, mut chain, mut named) = ("", "", false);
    for attribute in attributes {
        match attribute {
            RuleAttribute::Table(name) => table = name,
            RuleAttribute::Chain(name) => chain = name,
            RuleAttribute::Expressions(_) => {
                let mut bytes = vec![0; attribute.value_len()];
                attribute.emit_value(&mut bytes);
                named = names_metadata(&bytes);
            }
            _ => {}
        }
    }
    named.then(|| Rule::Metadata(format!("table {table}, chain {chain}")))
}

fn names_metadata(bytes: &[u8]) -> bool {
    guard::ADDRESSES.iter().any(|address| {
        let wire: &[u8] = if addr::is_v4(address) {
            &address[12..]
        } else {
            address
        };
        bytes.windows(wire.len()).any(|window| window == wire)
    })
}
