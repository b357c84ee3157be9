//! The program shipping-service.

use std::process::ExitCode;

fn main() -> ExitCode {
    oncelog::App::<shipping_service::ShippingService>::main()
}
