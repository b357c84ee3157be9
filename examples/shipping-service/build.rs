//! Turns `proto/` into Rust with protox instead of protoc, so that the build needs nothing but Rust and a C compiler.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 2] = ["shipping/v1/shipping_service.proto", "shipping/events/v1/shipping_event.proto"];

#[expect(clippy::disallowed_methods, reason = "a build script is configured by cargo's variables")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = protox::compile(FILES, ["proto"])?;
    fs::write(out.join("shipping.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .btree_map(".") // equal events encode to equal bytes, also once an event has a map
        .compile_fds(descriptors)?;
    Ok(())
}
