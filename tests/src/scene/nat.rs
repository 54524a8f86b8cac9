//! Service translation in the node's network namespace, by the rules that kube-proxy's nftables mode writes, reduced to one backend for each address.
//!
//! Packets for a Service are redirected to a backend in front of routing, the node's own on their way out; those that are marked (node ports, and a
//! backend that reaches itself) take a source address of the node.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::Scene;

/// kube-proxy's mark for packets whose source is to be rewritten.
const MASQUERADE: &str = "0x4000";

/// One translation.
#[derive(Debug, Clone, Copy)]
pub struct Translation {
    protocol: &'static str,
    from: SocketAddr,
    to: SocketAddr,
    masquerade: bool,
}

/// A TCP port of a Service, and the backend that it leads to.
#[must_use]
pub fn tcp(from: (IpAddr, u16), to: (IpAddr, u16)) -> Translation {
    translation("tcp", from, to)
}

/// A UDP port likewise.
#[must_use]
pub fn udp(from: (IpAddr, u16), to: (IpAddr, u16)) -> Translation {
    translation("udp", from, to)
}

fn translation(protocol: &'static str, from: (IpAddr, u16), to: (IpAddr, u16)) -> Translation {
    Translation {
        protocol,
        from: from.into(),
        to: to.into(),
        masquerade: false,
    }
}

impl Translation {
    /// The backend sees the node's address, as for a node port with `externalTrafficPolicy: Cluster`.
    #[must_use]
    pub fn masqueraded(mut self) -> Self {
        self.masquerade = true;
        self
    }

    fn rules(&self) -> String {
        let family = if self.from.is_ipv4() { "ip" } else { "ip6" };
        let of_service = format!(
            "{family} daddr {} {} dport {}",
            self.from.ip(),
            self.protocol,
            self.from.port()
        );
        let mark = format!("meta mark set meta mark or {MASQUERADE}");
        // A backend that chose itself would answer itself past the node.
        let backend = self.to.ip();
        let mut rules = format!("{family} saddr {backend} {of_service} {mark}\n");
        if self.masquerade {
            let _ = writeln!(rules, "{of_service} {mark}");
        }
        let _ = writeln!(rules, "{of_service} dnat to {}", self.to);
        rules
    }
}

/// Puts these translations in force in place of those before; connections that are open keep theirs.
pub fn translate(scene: &Scene, translations: &[Translation]) {
    let mut script = String::from("flush ruleset\n");
    for (family, v4) in [("ip", true), ("ip6", false)] {
        let own = translations
            .iter()
            .filter(|translation| translation.from.is_ipv4() == v4);
        let rules: String = own.map(Translation::rules).collect();
        let _ = writeln!(
            script,
            "table {family} services {{
            chain services {{
            {rules}
            }}
            chain prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
            chain output {{ type nat hook output priority -100; jump services; }}
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                meta mark and {MASQUERADE} != 0 masquerade
            }}
            }}"
        );
    }
    let _ = scene.on_node(&["nft", "-f", "-"], &script);
}
