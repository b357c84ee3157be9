//! Sends arbitrary bodies, idempotency keys and query parameters to `POST /orders` and `GET /orders`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], Option<&[u8]>, Vec<(String, String)>)| {
    let (body, key, query) = input;
    order_service::fuzzing::http_order(body, key, query);
});
