//! Entries of every map, from bytes to named fields in the order of the record.

use portcullis_common::abi::{
    Cell, Config, Endpoint, FRAGMENTS_PER_SLOT, Flow, FlowKey, Fragment, FragmentKey, L4Key,
    L4Range, L4Set, L4Value, Origin, OriginKey, Owner, PolicyKey, ServiceKey, Slot, config_flags,
    endpoint_flags,
};
use portcullis_common::addr::Addr;
use portcullis_common::policy::action;
use portcullis_common::{conntrack, reason};
use serde_json::{Map, Value, json};
use zerocopy::FromBytes;

use super::{name_of, record};

/// A decoded key or value.
type Fields = Map<String, Value>;

/// Bits of an `L4Key` before the port.
const PORT_AT: u32 = 48;

const ENDPOINT_FLAGS: &[(u32, &str)] = &[
    (endpoint_flags::METADATA_ALLOWED, "metadata-allowed"),
    (endpoint_flags::UNKNOWN, "unknown"),
];
const CONFIG_FLAGS: &[(u32, &str)] = &[
    (config_flags::SERVICES, "services"),
    (config_flags::CIDRS, "cidrs"),
    (config_flags::HOST_NETWORK_GUARD, "host-network-guard"),
    (config_flags::MOVING, "moving"),
    (config_flags::RESPONDER, "responder"),
];
const FLOW_FLAGS: &[(u32, &str)] = &[
    (conntrack::flags::OUTBOUND, "outbound"),
    (conntrack::flags::REPLIED, "replied"),
    (conntrack::flags::CONFIRMED, "confirmed"),
    (conntrack::flags::FIN_LOCAL, "fin-local"),
    (conntrack::flags::FIN_REMOTE, "fin-remote"),
    (conntrack::flags::RESET, "reset"),
    (conntrack::flags::PENDING, "pending"),
    (conntrack::flags::EXEMPT, "exempt"),
    (conntrack::flags::BORROWED, "borrowed"),
    (conntrack::flags::DEAD, "dead"),
];

/// What decoding needs besides the bytes.
pub(super) struct Decoder {
    /// The map's name.
    pub(super) map: String,
    /// Indices and names of interfaces.
    pub(super) interfaces: Vec<(u32, String)>,
    /// Current tick, for what is left of a connection's time.
    pub(super) now: u32,
}

impl Decoder {
    /// Key and value of one entry; `None` where the sizes are not those of this version's records, or the map is not ours.
    pub(super) fn entry(&self, key: &[u8], value: &[u8]) -> Option<(Fields, Fields)> {
        let (key, value) = match self.map.as_str() {
            "pc_endpoints" => self.endpoint(read(key)?, &read(value)?),
            "pc_peers" => (
                json!({"address": record::address(&read(key)?)}),
                json!({"identity": read::<u32>(value)?}),
            ),
            "pc_cidrs" => {
                let (length, addr): (u32, Addr) = (read(key.get(..4)?)?, read(key.get(4..)?)?);
                (
                    json!({"prefix": record::prefix(length, &addr)}),
                    json!({"identity": read::<u32>(value)?}),
                )
            }
            "pc_policies" => (json!({"policy": read::<u32>(key)?}), cell(&read(value)?)),
            "pc_policy" => {
                let key: PolicyKey = read(key)?;
                (
                    json!({"policy": key.policy, "identity": key.identity}),
                    cell(&read(value)?),
                )
            }
            "pc_l4sets" => (json!({"set": read::<u32>(key)?}), set(&read(value)?)),
            "pc_l4lpm" => port_prefix(read(key.get(..4)?)?, read(key.get(4..)?)?, read(value)?),
            "pc_services" => {
                let key: ServiceKey = read(key)?;
                (
                    json!({"address": record::address(&key.addr), "port": key.port, "protocol": record::protocol(key.protocol)}),
                    json!({}),
                )
            }
            "pc_nodes" => {
                let node = match read::<u32>(value)? {
                    1 => json!("this"),
                    2 => json!("other"),
                    other => json!(other),
                };
                (
                    json!({"address": record::address(&read(key)?)}),
                    json!({"node": node}),
                )
            }
            "pc_cgroups" => (
                json!({"cgroup": read::<u64>(key)?}),
                json!({"metadata": "allowed"}),
            ),
            "pc_conntrack" => self.flow(&read(key)?, &read(value)?),
            "pc_fragments" => self.fragment(read(key)?, &read(value)?),
            "pc_origins" => self.origin(read(key)?, &read(value)?),
            "pc_slots" => (json!({"slot": read::<u32>(key)?}), slot(&read(value)?)),
            "pc_pool" => (json!({}), json!({"connections": read::<u64>(value)?})),
            "pc_epoch" => (json!({}), json!({"epoch": read::<u32>(value)?})),
            "pc_drops" => {
                let index: u32 = read(key)?;
                let key = json!({"slot": index / 128, "direction": record::direction(index / 64 % 2), "reason": reason::name((index % 64) as u8)});
                (key, json!({"packets": read::<u64>(value)?}))
            }
            "pc_config" => (json!({}), config(&read(value)?)),
            "pc_owner" => (json!({}), owner(&read(value)?)),
            _ => return None,
        };
        Some((fields(key)?, fields(value)?))
    }

    fn endpoint(&self, ifindex: u32, value: &Endpoint) -> (Value, Value) {
        let key = json!({"ifindex": ifindex, "interface": name_of(&self.interfaces, ifindex)});
        let value = json!({
            "v4": record::address(&value.v4),
            "v6": record::address(&value.v6),
            "ingress": value.ingress,
            "egress": value.egress,
            "pendingIngress": value.pending_ingress,
            "pendingEgress": value.pending_egress,
            "revision": value.revision,
            "flags": record::bits(value.flags, ENDPOINT_FLAGS),
            "slot": value.slot,
            "generation": value.generation,
            "uid": record::uuid(&value.uid),
        });
        (key, value)
    }

    fn flow(&self, key: &FlowKey, value: &Flow) -> (Value, Value) {
        let left = value.expires.wrapping_sub(self.now) as i32;
        let key = json!({
            "slot": key.slot,
            "generation": key.generation,
            "protocol": record::protocol(key.protocol),
            "localPort": key.local_port,
            "remote": record::address(&key.remote),
            "remotePort": key.remote_port,
        });
        let value = json!({
            "flags": record::bits(value.flags, FLOW_FLAGS),
            "rule": record::rule(value.rule),
            "revision": value.revision,
            "idleSecs": seconds(self.now.wrapping_sub(value.seen) as i32),
            "expiresInSecs": seconds(left),
        });
        (key, value)
    }

    fn origin(&self, key: OriginKey, value: &Origin) -> (Value, Value) {
        let value = json!({
            "source": record::address(&value.src),
            "sourcePort": value.sport,
            "responderPort": value.port,
            "interface": name_of(&self.interfaces, value.ifindex),
            "cgroups": value.cgroups,
            "generation": value.generation,
            "idleSecs": seconds(self.now.wrapping_sub(value.seen) as i32),
        });
        (json!({"slot": key.slot, "way": key.way}), value)
    }

    fn fragment(&self, key: FragmentKey, value: &Fragment) -> (Value, Value) {
        let hook = match u32::from(key.way) / FRAGMENTS_PER_SLOT {
            0 => "from_pod",
            1 => "to_pod",
            _ => "behind the translation",
        };
        let key =
            json!({"slot": key.slot, "hook": hook, "way": u32::from(key.way) % FRAGMENTS_PER_SLOT});
        let value = json!({
            "source": record::address(&value.src),
            "destination": record::address(&value.dst),
            "protocol": record::protocol(value.protocol),
            "id": value.id,
            "next": value.next,
            "generation": value.generation,
            "pending": value.pending != 0,
            "idleSecs": seconds(self.now.wrapping_sub(value.seen) as i32),
        });
        (key, value)
    }
}

fn read<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_bytes(bytes).ok()
}

fn fields(value: Value) -> Option<Fields> {
    match value {
        Value::Object(fields) => Some(fields),
        _ => None,
    }
}

/// Ticks are 2^30 ns.
fn seconds(ticks: i32) -> i64 {
    i64::from(ticks) * (1 << 30) / 1_000_000_000
}

fn cell(cell: &Cell) -> Value {
    if cell.action == action::BY_PORT {
        return json!({"action": record::verdict(cell.action), "set": cell.rule_or_set});
    }
    json!({"action": record::verdict(cell.action), "rule": record::rule(cell.rule_or_set)})
}

fn set(set: &L4Set) -> Value {
    let used = set.ranges.iter().take_while(|range| range.protocol != 0);
    json!({
        "otherwise": record::verdict(set.otherwise),
        "otherwiseRule": record::rule(set.otherwise_rule),
        "spilled": set.spilled != 0,
        "ranges": used.map(range).collect::<Vec<_>>(),
    })
}

fn range(range: &L4Range) -> Value {
    json!({
        "protocol": record::protocol(range.protocol),
        "ports": record::ports(range.first, range.last),
        "action": record::verdict(u32::from(range.action)),
        "rule": record::rule(range.rule),
    })
}

fn port_prefix(length: u32, key: L4Key, value: L4Value) -> (Value, Value) {
    let first = u16::from_be_bytes(key.port);
    let free = 16_u32
        .saturating_sub(length.saturating_sub(PORT_AT))
        .min(16);
    let last = (u32::from(first) | ((1 << free) - 1)) as u16;
    let key = json!({"set": key.set, "protocol": record::protocol(key.protocol), "ports": record::ports(first, last)});
    (
        key,
        json!({"action": record::verdict(value.action), "rule": record::rule(value.rule)}),
    )
}

fn slot(slot: &Slot) -> Value {
    let [outbound, inbound, half_outbound, half_inbound] = slot.flows;
    json!({
        "generation": slot.generation,
        "outbound": outbound,
        "inbound": inbound,
        "halfOpenOutbound": half_outbound,
        "halfOpenInbound": half_inbound,
        "eventsInTick": slot.events,
        "lostEvents": slot.lost,
    })
}

fn config(config: &Config) -> Value {
    json!({
        "flags": record::bits(config.flags, CONFIG_FLAGS),
        "podsCgroup": config.pods_cgroup,
        "podsCgroupLevel": config.pods_cgroup_level,
        "netnsCookie": config.netns_cookie,
        "quota": config.quota,
        "guaranteed": config.guaranteed,
        "pool": config.pool,
        "eventsPerTick": config.events_per_tick,
        "responderPort": config.responder_port,
        "responderV4": record::address(&config.responder_v4),
        "responderV6": record::address(&config.responder_v6),
    })
}

fn owner(owner: &Owner) -> Value {
    json!({"abi": owner.abi, "netnsCookie": owner.netns_cookie, "bootId": record::uuid(&owner.boot_id)})
}

#[cfg(test)]
mod tests {
    use portcullis_common::abi::{direction, drop_index};
    use portcullis_common::addr;
    use zerocopy::IntoBytes as _;

    use super::*;

    fn decoded(map: &str, key: &[u8], value: &[u8]) -> (Value, Value) {
        let decoder = Decoder {
            map: map.to_owned(),
            interfaces: vec![(4, "eni4".to_owned())],
            now: 1000,
        };
        let (key, value) = decoder.entry(key, value).expect("the sizes fit");
        (Value::Object(key), Value::Object(value))
    }

    #[test]
    fn every_map_with_entries_has_a_decoder() {
        for (map, ..) in super::super::RECORDS
            .iter()
            .filter(|(name, ..)| *name != "pc_events")
        {
            let decoder = Decoder {
                map: (*map).to_owned(),
                interfaces: Vec::new(),
                now: 0,
            };
            let sizes = [1, 4, 8, 12, 16, 20, 24, 32, 48, 56, 88, 96, 128];
            let fits = |key: &usize| {
                sizes
                    .iter()
                    .any(|value| decoder.entry(&vec![1; *key], &vec![1; *value]).is_some())
            };
            assert!(sizes.iter().any(fits), "{map}");
        }
    }

    #[test]
    fn endpoints_are_named_by_their_interface() {
        let endpoint = Endpoint {
            v4: addr::mapped([10, 0, 0, 2]),
            slot: 7,
            flags: endpoint_flags::UNKNOWN,
            ..Endpoint::default()
        };
        let (key, value) = decoded("pc_endpoints", 4_u32.as_bytes(), endpoint.as_bytes());
        assert_eq!(key, json!({"ifindex": 4, "interface": "eni4"}));
        assert_eq!(
            (&value["v4"], &value["v6"], &value["slot"], &value["flags"]),
            (
                &json!("10.0.0.2"),
                &Value::Null,
                &json!(7),
                &json!(["unknown"])
            )
        );
    }

    #[test]
    fn drops_are_named_by_slot_direction_and_reason() {
        let index = drop_index(3, direction::EGRESS, reason::METADATA_GUARD);
        let (key, value) = decoded("pc_drops", index.as_bytes(), 9_u64.as_bytes());
        assert_eq!(
            key,
            json!({"slot": 3, "direction": "egress", "reason": "metadata-guard"})
        );
        assert_eq!(value, json!({"packets": 9}));
    }

    #[test]
    fn spilled_ranges_are_shown_as_ports() {
        let data = L4Key {
            set: 2,
            protocol: 6,
            reserved: 0,
            port: 8000_u16.to_be_bytes(),
        };
        let key = [(PORT_AT + 10).as_bytes(), data.as_bytes()].concat();
        let (key, value) = decoded(
            "pc_l4lpm",
            &key,
            L4Value {
                action: action::ALLOW,
                rule: 16,
            }
            .as_bytes(),
        );
        assert_eq!(
            key,
            json!({"set": 2, "protocol": "tcp", "ports": "8000-8063"})
        );
        assert_eq!(value, json!({"action": "allow", "rule": "0x00000010"}));
    }

    #[test]
    fn connections_say_how_long_they_live() {
        let key = FlowKey {
            remote: addr::mapped([10, 0, 0, 3]),
            local_port: 40_000,
            remote_port: 80,
            slot: 1,
            generation: 1,
            protocol: 6,
        };
        let flow = Flow {
            expires: 1100,
            seen: 1000,
            flags: conntrack::flags::OUTBOUND,
            ..Flow::default()
        };
        let (key, value) = decoded("pc_conntrack", key.as_bytes(), flow.as_bytes());
        assert_eq!(
            (&key["remote"], &key["protocol"]),
            (&json!("10.0.0.3"), &json!("tcp"))
        );
        assert_eq!(
            (&value["flags"], &value["expiresInSecs"], &value["idleSecs"]),
            (&json!(["outbound"]), &json!(107), &json!(0))
        );
    }

    #[test]
    fn records_of_another_size_stay_bytes() {
        let decoder = Decoder {
            map: "pc_slots".to_owned(),
            interfaces: Vec::new(),
            now: 0,
        };
        assert!(decoder.entry(&[0; 4], &[0; 55]).is_none());
    }
}
