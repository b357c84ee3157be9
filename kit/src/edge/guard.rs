//! Refuses two kinds of requests before they have an effect: requests whose answer the caller could not read, and
//! requests that a browser sends for a page of another site (CSRF, DNS rebinding).

use axum::{
    http::{HeaderMap, Method, Request, Version, header, uri::Authority},
    response::{IntoResponse as _, Response},
};

use super::call_error::CallError;

/// Where a service listens, and its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    pub(crate) service: &'static str,
    /// True if the listener is on a loopback address. A request that names another host is then refused: it comes from
    /// a web page whose name was pointed at this machine (DNS rebinding).
    pub(crate) is_loopback: bool,
}

impl Guard {
    /// Returns the answer to a request that must not be executed.
    pub(super) fn refusal<B>(self, request: &Request<B>) -> Option<Response> {
        let error = self.check(request).err()?;
        let speaks_grpc = is_grpc(request.headers()) && request.version() == Version::HTTP_2;
        Some(if speaks_grpc { error.into_status(self.service).into_http() } else { error.into_response() })
    }

    fn check<B>(self, request: &Request<B>) -> Result<(), CallError> {
        let host = host(request)?;
        if self.is_loopback && !is_loopback_name(&host) {
            return Err(CallError::Misdirected { host: host.to_string() });
        }
        if is_grpc(request.headers()) {
            check_grpc(request)?;
        }
        let changes_something = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        if changes_something && is_cross_site(request.headers(), &host) {
            return Err(CallError::CrossSite);
        }
        Ok(())
    }
}

/// Returns the host that the request is for. HTTP/1.1 has exactly one `Host` header.
fn host<B>(request: &Request<B>) -> Result<Authority, CallError> {
    let mut headers = request.headers().get_all(header::HOST).iter();
    let header =
        headers.next().map(|value| Authority::try_from(value.as_bytes()).map_err(|_error| CallError::InvalidHost));
    if headers.next().is_some() {
        return Err(CallError::InvalidHost);
    }
    match (request.uri().authority(), header) {
        (_, Some(Err(error))) => Err(error),
        // HTTP/2 sends the authority; a `Host` beside it names the same.
        (Some(authority), None) => Ok(authority.clone()),
        (Some(authority), Some(Ok(host))) if *authority == host => Ok(host),
        (Some(_), Some(Ok(_))) | (None, None) => Err(CallError::InvalidHost),
        (None, Some(Ok(host))) => Ok(host),
    }
}

fn is_loopback_name(host: &Authority) -> bool {
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// Returns whether a request is a gRPC call, by its content type. gRPC-Web counts, too.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Refuses gRPC where the status, which comes in trailers, would not arrive.
fn check_grpc<B>(request: &Request<B>) -> Result<(), CallError> {
    let content_type = request.headers().get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    let is_web = content_type.is_some_and(|value| value.starts_with(b"application/grpc-web"));
    if is_web {
        return Err(CallError::MediaType { expected: "application/grpc; gRPC-Web is not served" });
    }
    if request.version() != Version::HTTP_2 {
        return Err(CallError::HttpVersion);
    }
    Ok(())
}

/// Returns whether a browser says that a page of another site has sent the request. Other programs send neither header.
fn is_cross_site(headers: &HeaderMap, host: &Authority) -> bool {
    let fetched = headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site");
    let origin = headers.get(header::ORIGIN).is_some_and(|origin| {
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        origin.is_none_or(|(_scheme, authority)| !authority.eq_ignore_ascii_case(host.as_str()))
    });
    fetched || origin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(is_loopback: bool, request: axum::http::request::Builder) -> Option<u16> {
        let guard = Guard { service: "test", is_loopback };
        guard.refusal(&request.body(()).expect("a request")).map(|answer| answer.status().as_u16())
    }

    fn post() -> axum::http::request::Builder {
        Request::post("/orders").header("host", "localhost:3001")
    }

    #[test]
    fn programs_send_no_origin_and_pages_only_their_own() {
        assert_eq!(status(true, post()), None);
        assert_eq!(status(true, post().header("origin", "http://localhost:3001")), None);
        assert_eq!(status(true, post().header("origin", "https://evil.example")), Some(403));
        assert_eq!(status(true, post().header("origin", "null")), Some(403));
        assert_eq!(status(true, post().header("sec-fetch-site", "cross-site")), Some(403));
        let read = Request::get("/orders").header("host", "localhost:3001").header("sec-fetch-site", "cross-site");
        assert_eq!(status(true, read), None, "reading changes nothing");
    }

    #[test]
    fn a_request_has_one_host_and_on_loopback_that_is_this_machine() {
        assert_eq!(status(false, Request::post("/orders")), Some(400));
        assert_eq!(status(false, post().header("host", "localhost:3001")), Some(400), "two of them");
        assert_eq!(status(false, Request::post("/orders").header("host", "orders.example")), None);
        assert_eq!(status(true, Request::post("/orders").header("host", "orders.example")), Some(421));
        for host in ["127.0.0.1:3001", "[::1]:3001", "LOCALHOST"] {
            assert_eq!(status(true, Request::post("/orders").header("host", host)), None, "{host}");
        }
    }

    #[test]
    fn grpc_needs_trailers() {
        let grpc = |content_type| post().header("content-type", content_type);
        assert_eq!(status(true, grpc("application/grpc").version(Version::HTTP_2)), None);
        assert_eq!(status(true, grpc("application/grpc+proto").version(Version::HTTP_2)), None);
        assert_eq!(status(true, grpc("application/grpc")), Some(505));
        assert_eq!(status(true, grpc("application/grpc-web+proto")), Some(415));
    }
}
