//! Measures the duration of reads as the store grows: `cargo bench -p order-service`.
//!
//! The service runs without a broker. One caller on the same machine waits for each answer.

use std::{
    error::Error,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use contracts::{
    money::Money,
    proto::orders::v1::{GetOrderRequest, ListOrdersRequest, OrderState, order_service_client::OrderServiceClient},
};
use oncelog::{
    aggregate::{Cause, Loaded, ReadTable as _},
    app::{self, Config, KafkaArgs, ListenArgs, NoArgs},
    embedded::Cluster,
    event::{StreamId, Version},
    runtime::Shutdown,
    store::{Append, Commit, Location, Store},
};
use order_service::{
    OrderService, OrdersTable,
    order::{Command, Details, Order, PaymentOutcome},
};
use tokio::net::TcpListener;
use tonic::transport::Channel;

const CALLS: usize = 2000;
const CUSTOMERS: usize = 1000;
const DEEP: usize = 10_000;

type Failure = Box<dyn Error + Send + Sync>;
type Client = OrderServiceClient<Channel>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let config = Config::<OrderService> {
        listen: address,
        store: Location::sqlite(directory.path().join("orders.db")),
        service: NoArgs {},
        new_store: None,
        callers: ListenArgs::default(),
        kafka: KafkaArgs::of_embedded("127.0.0.1:9".parse()?, 3),
    };
    let store = app::open_store(&config)?;
    let shutdown = Shutdown::new();
    #[expect(clippy::disallowed_methods, reason = "no supervisor here")]
    let service = tokio::spawn(app::run(store.clone(), config, listener, Cluster::Durable, shutdown.clone()));
    let mut client = OrderServiceClient::connect(format!("http://{address}")).await?;

    let mut out = io::stdout();
    writeln!(out, "{:<44} {:>10} {:>10}", "", "p50", "p99")?;
    let mut orders = Vec::new();
    for size in [10_000, 100_000, 1_000_000] {
        let began = Instant::now();
        fill(&store, &mut orders, size).await?;
        writeln!(out, "{size} orders (added in {:.0} s)", began.elapsed().as_secs_f64())?;
        row("  GetOrder", get(&mut client, &orders).await?)?;
        let all = ListOrdersRequest::default();
        let paid = ListOrdersRequest { state: OrderState::Paid.into(), ..Default::default() };
        let customers = ListOrdersRequest { customer_id: "customer-7".to_owned(), ..Default::default() };
        let both = ListOrdersRequest { state: OrderState::Created.into(), ..customers.clone() };
        for (name, request) in [("all", all), ("by state", paid), ("by customer", customers), ("by both", both)] {
            row(&format!("  ListOrders, {name}, page 1 of 50"), list(&mut client, request).await?)?;
        }
    }
    let mut deep = ListOrdersRequest::default();
    for _ in 1..DEEP {
        deep.page_token = client.list_orders(deep.clone()).await?.into_inner().next_page_token;
    }
    row(&format!("  ListOrders, all, page {DEEP} of 50"), list(&mut client, deep).await?)?;
    shutdown.cancel();
    service.await??;
    Ok(())
}

/// Adds orders until there are `size` of them. Every second one is paid.
async fn fill(store: &Store, orders: &mut Vec<StreamId>, size: usize) -> Result<(), Failure> {
    while orders.len() < size {
        let mut commit = Commit::default();
        for _ in 0..500 {
            let (stream, number) = (StreamId::generate(), orders.len());
            let mut order = Loaded::<Order>::default();
            let details = Details {
                money: Money::new(500, "USD").map_err(|_errors| "not a valid amount")?,
                request_id: String::new(),
                customer_id: format!("customer-{}", number % CUSTOMERS),
                metadata: Default::default(),
            };
            let mut events = order.execute(stream, &Command::Create(details), &Cause::default())?;
            if number.is_multiple_of(2) {
                let outcome = PaymentOutcome::Completed { gateway_reference: format!("ch_{number}") };
                events.extend(order.execute(stream, &Command::RecordPayment(outcome), &Cause::default())?);
            }
            commit.appends.push(Append { stream, expected: Version::NONE, events, row: OrdersTable::row(&order) });
            orders.push(stream);
        }
        store.commit(commit).await?;
    }
    Ok(())
}

async fn get(client: &mut Client, orders: &[StreamId]) -> Result<Vec<Duration>, Failure> {
    let mut took = Vec::new();
    for call in 0..CALLS {
        let order = orders[call * 7919 % orders.len()];
        let request = GetOrderRequest { order_id: order.to_string() };
        let began = Instant::now();
        client.get_order(request).await?;
        took.push(began.elapsed());
    }
    Ok(took)
}

async fn list(client: &mut Client, request: ListOrdersRequest) -> Result<Vec<Duration>, Failure> {
    let mut took = Vec::new();
    for _ in 0..CALLS / 10 {
        let began = Instant::now();
        client.list_orders(request.clone()).await?;
        took.push(began.elapsed());
    }
    Ok(took)
}

fn row(what: &str, mut took: Vec<Duration>) -> io::Result<()> {
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    writeln!(io::stdout(), "{what:<44} {:>7.2} ms {:>7.2} ms", at(0.5), at(0.99))
}
