//! The program order-service.

use std::process::ExitCode;

fn main() -> ExitCode {
    oncelog::app::App::<order_service::OrderService>::main()
}
