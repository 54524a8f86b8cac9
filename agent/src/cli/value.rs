//! Values that are more than a word.

use std::time::Duration;

/// `NAMESPACE/SERVICEACCOUNT`.
pub(super) fn service_account(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("wants NAMESPACE/SERVICEACCOUNT".to_owned()),
    }
}

/// `30s`, `500ms`, `2m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let Ok(number) = number.parse::<u64>() else {
        return Err("wants a number with ms, s, m or h".to_owned());
    };
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        _ => Err("wants a number with ms, s, m or h".to_owned()),
    }
}

/// `pod/NAME`, or `NAMESPACE/NAME`.
pub(super) fn pod(text: &str) -> Result<(Option<String>, String), String> {
    match text.split_once('/') {
        Some((kind, name)) if !kind.is_empty() && !name.is_empty() && !name.contains('/') => {
            let namespace = Some(kind.to_owned()).filter(|kind| kind != "pod");
            Ok((namespace, name.to_owned()))
        }
        _ => Err("wants pod/NAME or NAMESPACE/NAME".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(duration("30").is_err() && duration("s").is_err() && duration("3 d").is_err());
    }

    #[test]
    fn pods_are_named_in_two_ways() {
        let name = "web".to_owned();
        assert_eq!(pod("pod/web"), Ok((None, name.clone())));
        assert_eq!(pod("shop/web"), Ok((Some("shop".to_owned()), name)));
        assert!(pod("web").is_err() && pod("/web").is_err() && pod("a/b/c").is_err());
    }
}
