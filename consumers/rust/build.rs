//! Makes the Rust types from `proto/`, with protox instead of protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../../proto");
    let files = ["orders/events/v1/order_event.proto", "payments/events/v1/payment_event.proto"];
    prost_build::Config::new().include_file("events.rs").compile_fds(protox::compile(files, ["../../proto"])?)?;
    Ok(())
}
