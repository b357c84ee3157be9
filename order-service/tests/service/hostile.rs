//! Callers that hold connections open, do not read, or speak what cannot be answered.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use contracts::proto::orders::v1::CreateOrderRequest;
use prost::Message as _;

use crate::harness::{Service, agent};

fn connect(service: &Service, begin: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(service.address).expect("connects");
    stream.write_all(begin).expect("written");
    stream
}

/// Reads until the service closes the connection, and returns what came before.
fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    let mut read = Vec::new();
    let _ = stream.read_to_end(&mut read); // a reset is an end, too
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_begins_no_call_is_closed() {
    let service = Service::start().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut slow: Vec<_> = [&b""[..], b"P", &preface[..], b"POST /orders HTTP/1.1\r\n"]
        .into_iter()
        .map(|begin| connect(&service, begin))
        .collect();
    let began = Instant::now();

    tokio::task::block_in_place(|| {
        for stream in &mut slow {
            read_to_end(stream);
        }
    });

    assert!(began.elapsed() < Duration::from_secs(30), "the bound of the test, not of the promise");
    assert_eq!(service.get("/livez").status, 200);
    service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_whose_status_could_not_be_read_has_no_effect() {
    let service = Service::start().await;
    let message = CreateOrderRequest { amount: 500, ..Default::default() }.encode_to_vec();
    let body = [&[0, 0, 0, 0, u8::try_from(message.len()).expect("short")], &message[..]].concat();
    let call = |content_type: &str| {
        let request = service.request("POST", "/orders.v1.OrderService/CreateOrder");
        let request = request.header("content-type", content_type).body(&body[..]).expect("a request");
        agent().run(request).expect("an answer").status().as_u16()
    };

    assert_eq!(call("application/grpc"), 505, "over HTTP/1.1 there are no trailers");
    assert_eq!(call("application/grpc-web+proto"), 415);

    assert_eq!(service.stored_orders(), 0);
    service.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_site_changes_nothing() {
    let service = Service::start().await;
    let order_id = service.post(r#"{"amount":500}"#).order_id().to_owned();
    let cancel = |name: &str, value: &str| {
        let request = service.request("POST", &format!("/orders/{order_id}/cancel")).header(name, value);
        agent().run(request.body(()).expect("a request")).expect("an answer").status().as_u16()
    };

    assert_eq!(cancel("origin", "https://evil.example"), 403);
    assert_eq!(cancel("sec-fetch-site", "cross-site"), 403);
    assert_eq!(cancel("host", "evil.example"), 421, "a name that was made to point to this machine");
    assert_eq!(service.get(&format!("/orders/{order_id}")).body["version"], 1);

    assert_eq!(cancel("user-agent", "curl"), 200);
    service.stop().await.expect("a clean stop");
}
