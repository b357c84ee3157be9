//! Runs the audits of both services. They must find nothing in sound stores, and each fault that is planted in a copy
//! of a store, in the gateway's ledger, or in a topic.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::{BorrowedMessage, Header, Headers as _, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use crate::{
    Ground, Table,
    kafka::Kafka,
    services::{Service, Services},
};

const ORDERS: usize = 50;

/// A change to a copy of a store or of a ledger, and the audit's findings.
struct Plant {
    /// The changed file. It also determines the service whose audit runs.
    file: &'static str,
    change: &'static str,
    found: &'static [&'static str],
}

const PLANTS: [Plant; 12] = [
    Plant { file: "orders.db", change: "SELECT 1", found: &[] },
    Plant {
        file: "orders.db",
        change: "UPDATE events SET payload = CAST(payload || x'a00601' AS BLOB) WHERE position = 7",
        // The audit of order-service does not check the effects in payment-service.
        found: &["its value is not the one that is stored"],
    },
    Plant {
        file: "orders.db",
        change: "DELETE FROM events WHERE position = (SELECT max(position) FROM events)",
        found: &["has had no effect: orders.events.v1.OrderPaid is missing", "the store does not know"],
    },
    Plant {
        file: "orders.db",
        change: "DELETE FROM events WHERE position =
                 (SELECT min(position) FROM events WHERE type = 'orders.events.v1.OrderPaid')",
        found: &["has had no effect: orders.events.v1.OrderPaid is missing", "the store does not know"],
    },
    Plant {
        file: "orders.db",
        change: "INSERT INTO events (position, stream, version, id, type, time, causation, traceparent, payload)
                 SELECT position + 1, stream, version + 1, zeroblob(16), type, time, causation,
                 traceparent, payload FROM events WHERE position = (SELECT max(position) FROM events)",
        found: &["has had a second effect", "is not in order-events"],
    },
    Plant { file: "charges.db", change: "SELECT 1", found: &[] },
    Plant {
        file: "charges.db",
        change: "INSERT INTO charges SELECT NULL, key, amount, currency_code, 'ch_again', NULL, NULL, time
                 FROM charges WHERE id = 3",
        found: &["was charged 2 times"],
    },
    Plant {
        file: "charges.db",
        change: "DELETE FROM charges WHERE id = 3",
        found: &["which the gateway does not have"],
    },
    Plant {
        file: "charges.db",
        change: "UPDATE charges SET amount = 501 WHERE id = 3",
        found: &["has the amount USD 501"],
    },
    Plant {
        file: "charges.db",
        change:
            "INSERT INTO charges SELECT NULL, '01a20859-c427-7384-b47b-d18ff68dd444', amount, currency_code, 'ch_x',
                 NULL, NULL, time FROM charges WHERE id = 3",
        found: &["and no payment is known"],
    },
    Plant {
        file: "charges.db",
        change: "INSERT INTO refunds SELECT '01a20859-c427-7384-b47b-d18ff68dd444', amount, currency_code, 're_x', time
                 FROM charges WHERE id = 3",
        found: &["and no payment is known"],
    },
    Plant {
        file: "charges.db",
        change: "INSERT INTO refunds SELECT key, amount, currency_code, 're_x', time FROM charges WHERE id = 3",
        found: &["is completed, and its charge was given back"],
    },
];

pub(crate) fn run(ground: &Ground) -> anyhow::Result<Table> {
    let directory = tempfile::tempdir()?;
    let kafka = Kafka::start(&ground.jars, directory.path())?;
    let brokers = kafka.address();
    let mut services = Services::start(&ground.programs, directory.path(), &brokers)?;
    services.orders.place("order", ORDERS)?;
    ground.reader.wait_until(&brokers, "order-events", |records| records.len() >= 2 * ORDERS)?;
    for service in [&services.orders, &services.payments] {
        expect(service, &brokers, None, &[]).context("while the service runs")?;
    }
    services.stop()?;
    for (number, Plant { file, change, found }) in PLANTS.iter().enumerate() {
        let copy = directory.path().join(format!("copy-{number}"));
        fs::create_dir(&copy)?;
        for file in ["orders.db", "payments.db", "charges.db"] {
            fs::copy(directory.path().join(file), copy.join(file))?;
        }
        rusqlite::Connection::open(copy.join(file))?.execute_batch(change).with_context(|| change.to_string())?;
        let service = if *file == "orders.db" { &services.orders } else { &services.payments };
        expect(service, &brokers, Some(&copy), found).with_context(|| format!("after {change}"))?;
    }
    println!("    {} faults planted in stores and ledgers: each is found, and nothing else", PLANTS.len());

    publish_again(&brokers, "order-events")?;
    expect(&services.orders, &brokers, None, &["is there twice", "is an event that the store does not know"])
        .context("after a record was published again")?;
    println!("    faults planted in a topic: found, with partition and offset");
    Ok(vec![("audit", (PLANTS.len() + 2, Vec::new()))])
}

/// Runs an audit, and expects exactly these findings, in any order.
fn expect(service: &Service, brokers: &str, copy: Option<&Path>, found: &[&str]) -> anyhow::Result<()> {
    let mut args = vec!["audit".to_owned(), "--wait".to_owned(), "5".to_owned(), "--kafka-brokers".to_owned()];
    args.push(brokers.to_owned());
    if let Some(copy) = copy {
        let store = if service.name == "order-service" { "orders.db" } else { "payments.db" };
        args.extend(["--store".to_owned(), format!("sqlite:{}", copy.join(store).display())]);
        if service.name == "payment-service" {
            args.extend(["--gateway".to_owned(), format!("simulated:{}", copy.join("charges.db").display())]);
        }
    }
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let (code, said) = service.subcommand(&args)?;
    let lines: Vec<_> = said.lines().take_while(|line| !line.starts_with("stored events")).collect();
    ensure!(code == Some(i32::from(!found.is_empty())), "the audit ended with {code:?}:\n{said}");
    ensure!(lines.len() == found.len(), "{} findings instead of {}:\n{said}", lines.len(), found.len());
    for what in found {
        ensure!(lines.iter().any(|line| line.contains(what)), "no finding contains {what:?}:\n{said}");
    }
    Ok(())
}

/// Publishes one record of a topic again: once unchanged, and once with a position that the store has not reached.
fn publish_again(brokers: &str, topic: &str) -> anyhow::Result<()> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", "again").create()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&list)?;
    let record = (0..100).find_map(|_| consumer.poll(std::time::Duration::from_millis(100)));
    let record = record.context("the topic's first partition is empty")??;
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    for sequence in [None, Some("00000000000000999999")] {
        let headers = copy_headers(&record, sequence);
        let again = BaseRecord::to(topic).partition(0).headers(headers);
        let again = again.key(record.key().unwrap_or_default()).payload(record.payload().unwrap_or_default());
        producer.send(again).map_err(|(error, _)| error)?;
    }
    Ok(producer.flush(std::time::Duration::from_secs(10))?)
}

fn copy_headers(record: &BorrowedMessage<'_>, sequence: Option<&str>) -> OwnedHeaders {
    let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
    headers.fold(OwnedHeaders::new(), |copy, Header { key, value }| {
        let value = sequence.filter(|_| key == "ce_sequence").map(str::as_bytes).or(value);
        copy.insert(Header { key, value })
    })
}
