//! The W3C trace context, which callers send, the store keeps, and records carry.

use std::{borrow::Cow, str::FromStr as _};

use axum::http::HeaderMap;
use opentelemetry::trace::TraceState;

/// The longest `tracestate` that is kept, in bytes. The specification requires no more.
const LONGEST_STATE: usize = 512;

/// A W3C trace context.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace, its current span, and its flags.
    pub traceparent: String,
    /// The data that tracing systems have added, if any.
    pub tracestate: Option<String>,
}

impl TraceContext {
    /// Returns the context that a caller sent, if its `traceparent` is valid. An invalid `tracestate` is dropped.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let states = headers.get_all("tracestate").iter().map(|state| state.to_str());
        let states = states.collect::<Result<Vec<_>, _>>().unwrap_or_default().join(",");
        Self::parse(headers.get("traceparent")?.to_str().ok()?, Some(&states))
    }

    /// Returns the context that two headers describe, if the first one is valid.
    pub(crate) fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let tracestate = tracestate.filter(|state| !state.is_empty() && state.len() <= LONGEST_STATE);
        is_traceparent(traceparent).then(|| Self {
            traceparent: traceparent.to_owned(),
            tracestate: tracestate.filter(|state| TraceState::from_str(state).is_ok()).map(str::to_owned),
        })
    }

    /// Returns the headers of the context, as names and values.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&'static str, Cow<'_, str>)> {
        let tracestate = self.tracestate.as_deref().map(|state| ("tracestate", state.into()));
        [("traceparent", self.traceparent.as_str().into())].into_iter().chain(tracestate)
    }
}

/// Returns true for the form of version 00: `00-<32 hex>-<16 hex>-<2 hex>`, where no id is all zeros.
fn is_traceparent(text: &str) -> bool {
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

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn taken(headers: &[(&'static str, &str)]) -> Option<TraceContext> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a header value"));
        }
        TraceContext::of(&map)
    }

    #[test]
    fn only_what_is_a_traceparent_is_taken() {
        assert_eq!(taken(&[("traceparent", GOOD)]).expect("taken").traceparent, GOOD);
        for bad in [
            "",
            "00",
            &GOOD.to_uppercase(),
            &GOOD[1..],
            &GOOD.replace("00-", "01-"),
            &format!("{GOOD}-x"),
            &GOOD.replace("b7ad6b7169203331", "0000000000000000"),
        ] {
            assert_eq!(taken(&[("traceparent", bad)]), None, "{bad}");
        }
        assert_eq!(taken(&[]), None);
    }

    #[test]
    fn a_tracestate_is_taken_with_a_traceparent_if_it_is_valid() {
        let state = |states: &[&str]| {
            let states = states.iter().map(|state| ("tracestate", *state));
            taken(&[("traceparent", GOOD)].into_iter().chain(states).collect::<Vec<_>>()).expect("taken").tracestate
        };
        assert_eq!(state(&["congo=t61rcWkgMzE"]).as_deref(), Some("congo=t61rcWkgMzE"));
        assert_eq!(state(&["a=1", "b=2"]).as_deref(), Some("a=1,b=2"), "several headers are one list");
        assert_eq!(state(&["no key"]), None);
        assert_eq!(state(&[&format!("a={}", "x".repeat(600))]), None);
        assert_eq!(taken(&[("tracestate", "a=1")]), None, "it is nothing without a traceparent");
    }
}
