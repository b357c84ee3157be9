//! The text that the program prints first: addresses, the data directory, and commands to try.

use std::io::{self, Write as _};

use crate::config::Config;

pub(crate) fn print(config: &Config, orders: u64) -> io::Result<()> {
    let Config { listen, payment_listen, kafka_listen, data_dir, .. } = config;
    let data = data_dir.display();
    write!(
        io::stdout(),
        "\
order-service    {listen}   gRPC and HTTP
payment-service  {payment_listen}   gRPC
Kafka            {kafka_listen}   embedded: topics order-events and payment-events, gone when this stops
data             {data}   {orders} orders; to start afresh: rm -r {data}

Try, in another terminal:
  curl -d '{{\"amount\":500}}' -H 'content-type: application/json' {listen}/orders
  grpcurl -plaintext -d '{{\"amount\":500}}' {listen} orders.v1.OrderService/CreateOrder
  curl -d '{{\"amount\":4001}}' -H 'content-type: application/json' {listen}/orders     a declined card
  curl {listen}/orders/<orderId>
  grpcurl -plaintext -d '{{\"order_id\":\"<orderId>\"}}' {payment_listen} payments.v1.PaymentService/GetPayment
  kcat -b {kafka_listen} -t order-events -C -f '%o %k %h\\n'

Ctrl-C stops. Every record, as it is read back from the topics (ms since the order was taken):
"
    )
}
