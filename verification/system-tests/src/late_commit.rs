//! Reproduces a late commit: a delayed copy of a commit arrives during the next transaction, and ends that one.
//!
//! Kafka's protocol allows it (Jepsen on Bufstream 0.1.0, 2024), and no error and no callback reports it. The test
//! first shows the flaw with an ordinary producer, then that the relay's writer keeps the topic exact.

use std::{thread, time::Duration};

use anyhow::{Context as _, bail, ensure};
use oncelog::{
    kafka::{client::Client, record::Record},
    relay::{transaction::Outcome, writer::Writer},
};
use rdkafka::{
    ClientConfig,
    producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer},
};

use crate::{Ground, Table, kafka::Kafka, proxy::Proxy, reader::Reader};

const NAIVE: &str = "naive";
const OURS: &str = "ours";
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs both producers, and returns the findings for the relay's writer.
pub(crate) fn run(ground: &Ground) -> anyhow::Result<Table> {
    let Ground { jars, reader, .. } = ground;
    let directory = tempfile::tempdir()?;
    let (kafka, proxy) = Kafka::start_behind_a_proxy(jars, directory.path())?;
    for topic in [NAIVE, OURS] {
        kafka.create_topic(topic)?;
    }
    let brokers = proxy.address().to_string();

    naive(&brokers, &proxy).context("the naive producer")?;
    let seen = reader.read_values(&brokers, NAIVE)?;
    ensure!(
        seen == ["first", "second, aborted"],
        "the flaw did not appear, so this test proves nothing: the naive producer's topic holds {seen:?}"
    );
    println!("    a naive producer: the late commit was accepted, and a read_committed reader sees an aborted record");

    let mut findings = ours(&brokers, &proxy, reader).context("the relay's writer")?;
    let seen = reader.read_values(&brokers, OURS)?;
    if seen != ["first", "second"] {
        findings.push(format!("the topic holds {seen:?}"));
    }
    Ok(vec![("late commit", (1, findings))])
}

/// Commits, gets the answer, and begins again. The late copy of the first commit ends the second transaction.
fn naive(brokers: &str, proxy: &Proxy) -> anyhow::Result<()> {
    let producer: ThreadedProducer<DefaultProducerContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).set("transactional.id", NAIVE).create()?;
    producer.init_transactions(PATIENCE)?;
    producer.begin_transaction()?;
    publish(&producer, "first")?;
    proxy.keep_next_end();
    producer.commit_transaction(PATIENCE)?; // librdkafka has repeated the request, and reports success

    producer.begin_transaction()?;
    publish(&producer, "second, aborted")?;
    let code = proxy.deliver_kept()?;
    ensure!(code == 0, "the broker rejected the late commit with error {code}, so this test proves nothing");
    let _ = producer.abort_transaction(PATIENCE); // too late
    Ok(())
}

fn publish(producer: &ThreadedProducer<DefaultProducerContext>, value: &str) -> anyhow::Result<()> {
    let record = BaseRecord::<(), str>::to(NAIVE).payload(value);
    producer.send(record).map_err(|(error, _)| error)?;
    producer.flush(PATIENCE)?;
    Ok(())
}

/// Does the same with the relay's writer. It is not used again, and its successor fences the late copy before it
/// begins.
#[expect(clippy::disallowed_methods, reason = "the tests have no supervisor")]
fn ours(brokers: &str, proxy: &Proxy, reader: &Reader) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    let client = Client::new("late-commit", brokers, Vec::new());
    let record = |value: &str| Record {
        topic: OURS.to_owned(),
        partition: None,
        key: None,
        value: Some(value.as_bytes().to_vec()),
        headers: Vec::new(),
    };
    let writer = Writer::open(&client, OURS)?;
    proxy.keep_next_end();
    let ended = writer.commit(&[record("first")]);
    ensure!(ended.outcome == Outcome::Committed, "the first commit ended {:?}", ended.outcome);
    let writer = match ended.writer {
        None => Writer::open(&client, OURS)?,
        Some(writer) => {
            findings.push("the writer may be used again after a slow commit".to_owned());
            writer
        }
    };

    proxy.stall_next_end();
    let second = record("second");
    let committing = thread::spawn(move || writer.commit(&[second]));
    proxy.wait_until_stalled()?; // the broker has its record, but not its commit
    let code = proxy.deliver_kept()?;
    if code == 0 {
        findings.push("the broker accepted the late commit".to_owned());
    }
    let seen = reader.read_values(brokers, OURS)?;
    if seen != ["first"] {
        findings.push(format!("before the second commit, the topic holds {seen:?}"));
    }
    proxy.release();
    let ended = committing.join().map_err(|_panic| anyhow::anyhow!("the writer panicked"))?;
    if ended.outcome != Outcome::Committed {
        bail!("the second commit ended {:?}: {:?}", ended.outcome, ended.error);
    }
    println!("    the relay's writer: replaced after the slow commit; the late one was rejected with error {code}");
    Ok(findings)
}
