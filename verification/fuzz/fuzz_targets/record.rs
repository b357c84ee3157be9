//! Reads arbitrary records, as from a topic that anyone may write to. Each is read, or rejected with a reason.

#![no_main]

use arbitrary::Arbitrary;
use oncelog::kafka::record::Received;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
    /// Adds a valid key and valid headers, so that inputs pass the first checks.
    usual: bool,
}

fuzz_target!(|input: Input| {
    let Input { key, value, mut headers, usual } = input;
    let id = "01a20859-c427-7384-b47b-d18ff68dd444";
    if usual {
        for (name, text) in [
            ("ce_specversion", "1.0"),
            ("ce_id", id),
            ("ce_type", "orders.events.v1.OrderCreated"),
            ("ce_source", "/order-service/x"),
            ("ce_subject", id),
            ("ce_time", "2026-01-31T12:00:00Z"),
            ("ce_sequence", "00000000000000000001"),
            ("content-type", "application/protobuf"),
        ] {
            headers.insert(0, (name.to_owned(), Some(text.as_bytes().to_vec())));
        }
    }
    let key = if usual { Some(id.as_bytes().to_vec()) } else { key };
    let record =
        Received { topic: "order-events".to_owned(), partition: 0, offset: 0, key, value, headers, time: None };
    if let Ok(incoming) = record.open() {
        let _ = order_service::payment_outcomes::read(&incoming);
        let _ = payment_service::order_events::read(&incoming);
    }
});
