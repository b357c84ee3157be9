//! Generates the Rust types from `proto/`, with protox instead of protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../../proto");
    let files = ["orders/events/v1/order_event.proto", "payments/events/v1/payment_event.proto"];
    let mut config = prost_build::Config::new();
    for what in ["OrderEvent.event", "PaymentEvent.event"] {
        // prost has no reflection, so strum supplies the name of the oneof's field.
        config.type_attribute(what, "#[derive(strum::IntoStaticStr)] #[strum(serialize_all = \"snake_case\")]");
    }
    config.include_file("events.rs").compile_fds(protox::compile(files, ["../../proto"])?)?;
    Ok(())
}
