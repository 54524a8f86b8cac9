//! `portcullis iam cache`: the credentials that responders hold, without what is secret of them.

use std::io::Write;

use anyhow::Result;
use portcullis_imds::link::CacheEntry;

use super::Heard;
use crate::commands::table::Table;
use crate::report::NodeCache;

/// Prints entries. Exit code 4 if an agent could not be asked, or its responder did not answer.
pub fn print(heard: &Heard<NodeCache>, json: bool, out: &mut dyn Write) -> Result<u8> {
    let mut headers = vec![
        "POD", "ROLE", "SOURCE", "PODS", "KEY", "EXPIRES", "SESSION", "FAULT",
    ];
    if heard.cluster {
        headers.insert(0, "NODE");
    }
    let mut table = Table::new(&headers);
    let mut is_empty = true;
    for document in &heard.documents {
        for entry in &document.items {
            is_empty = false;
            let node = heard.cluster.then(|| document.node.clone());
            table.push(node.into_iter().chain(cells(entry)));
        }
    }
    let text = if is_empty {
        String::new()
    } else {
        table.to_string()
    };
    heard.print(json, &text, out)?;
    Ok(heard.code())
}

fn cells(entry: &CacheEntry) -> [String; 8] {
    // Of an ARN the name is enough for people; programs read all of it.
    let role = entry.role.as_deref().unwrap_or("by association");
    let name = role.split_once(":role/").map_or(role, |(_, path)| path);
    let expires = entry.expiration.map(|end| format!("{end:.0}"));
    let fault = entry.fault.as_ref();
    [
        format!("{}/{}", entry.namespace, entry.pod),
        name.to_owned(),
        entry
            .source
            .map(|source| source.as_str().to_owned())
            .unwrap_or_default(),
        entry.leases.to_string(),
        entry.access_key_id.clone().unwrap_or_default(),
        expires.unwrap_or_default(),
        entry.session_name.clone(),
        fault
            .map(|fault| format!("{}: {}", fault.class.as_str(), fault.code))
            .unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use portcullis_imds::cache::{Fault, FaultClass};
    use portcullis_imds::role::SourceKind;

    use super::*;

    #[test]
    fn an_entry_shows_whose_it_is_and_the_public_half_of_its_keys() {
        let entry = CacheEntry {
            role: Some("arn:aws:iam::123456789012:role/team/app-web".to_owned()),
            source: Some(SourceKind::AssumeRole),
            endpoint: "https://sts".to_owned(),
            session_name: "shop.web".to_owned(),
            audience: None,
            namespace: "shop".to_owned(),
            service_account: "default".to_owned(),
            pod: "web".to_owned(),
            leases: 2,
            expiration: Some("2026-11-22T09:00:00Z".parse().expect("a time")),
            access_key_id: Some("ASIAEXAMPLE".to_owned()),
            fault: Some(Fault {
                class: FaultClass::Throttled,
                code: "Throttling".to_owned(),
                message: "slow down".to_owned(),
            }),
        };
        let document = NodeCache {
            items: vec![entry],
            ..NodeCache::default()
        };
        let mut out = Vec::new();
        let code = print(&Heard::here(document), false, &mut out).expect("it is an answer");
        let expected = "\
POD       ROLE          SOURCE       PODS  KEY          EXPIRES               SESSION   FAULT
shop/web  team/app-web  assume-role  2     ASIAEXAMPLE  2026-11-22T09:00:00Z  shop.web  throttled: Throttling
";
        assert_eq!(String::from_utf8_lossy(&out), expected);
        assert_eq!(code, 0);
    }
}
