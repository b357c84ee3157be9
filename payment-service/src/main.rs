//! The program payment-service.

use std::process::ExitCode;

fn main() -> ExitCode {
    oncelog::app::App::<payment_service::PaymentService>::main()
}
