//! What `POST /orders` and `GET /orders` make of what is sent to them.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], Option<&[u8]>, Vec<(String, String)>)| {
    let (body, key, query) = input;
    order_service::fuzzing::http_order(body, key, query);
});
