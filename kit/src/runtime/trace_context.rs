//! W3C trace context, as callers send it and records carry it.

use axum::http::HeaderMap;

/// The caller's `traceparent`, if it is one.
pub fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    is_traceparent(text).then(|| text.to_owned())
}

/// Whether a text has the form of version 00: `00-<32 hex>-<16 hex>-<2 hex>`, with no id all zeros.
pub(crate) fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let [version, trace, parent, flags] = parts[..] else { return false };
    let some = |part: &str| part.bytes().any(|byte| byte != b'0');
    version == "00" && hex(trace, 32) && some(trace) && hex(parent, 16) && some(parent) && hex(flags, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_a_traceparent_is_taken() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let taken = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", text.parse().expect("a header value"));
            traceparent(&headers)
        };
        assert_eq!(taken(good).as_deref(), Some(good));
        for bad in [
            "",
            "00",
            &good.to_uppercase(),
            &good[1..],
            &good.replace("00-", "01-"),
            &format!("{good}-x"),
            &good.replace("b7ad6b7169203331", "0000000000000000"),
        ] {
            assert_eq!(taken(bad), None, "{bad}");
        }
        assert_eq!(traceparent(&HeaderMap::new()), None);
    }
}
