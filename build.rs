//! Generates Rust from `proto/`, with protox instead of protoc, so that a build needs only Rust and a C compiler.
//!
//! Each service gets a descriptor set of its own, so that its reflection shows only its own API.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

const SERVICES: [(&str, [&str; 2]); 2] = [
    ("orders", ["orders/v1/order_service.proto", "orders/events/v1/order_event.proto"]),
    ("payments", ["payments/v1/payment_service.proto", "payments/events/v1/payment_event.proto"]),
];

#[expect(clippy::disallowed_methods, reason = "a build script has no config but cargo's variables")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for (service, files) in SERVICES {
        let descriptors = protox::compile(files, ["proto"])?;
        fs::write(out.join(format!("{service}.bin")), descriptors.encode_to_vec())?;
        tonic_prost_build::configure()
            .btree_map(".") // equal events encode to equal bytes
            .compile_fds(descriptors)?;
    }
    Ok(())
}
