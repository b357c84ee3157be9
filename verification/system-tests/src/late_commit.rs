//! The late commit: a copy of a commit that arrives when the next transaction is under way, and ends that one.
//!
//! Kafka's protocol allows it (Jepsen on Bufstream 0.1.0, 2024), and no error and no callback tells. First it is shown
//! to happen with a producer as everyone writes it, then that the relay's writer keeps the topic exact.

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

/// Runs both, and says what was found wrong with ours.
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
        "the flaw did not show: the naive producer's topic holds {seen:?}; is the test still a test?"
    );
    println!("    a naive producer: the late commit was taken, and a read_committed reader sees what was aborted");

    let mut findings = ours(&brokers, &proxy, reader).context("the relay's writer")?;
    let seen = reader.read_values(&brokers, OURS)?;
    if seen != ["first", "second"] {
        findings.push(format!("the topic holds {seen:?}"));
    }
    Ok(vec![("late commit", (1, findings))])
}

/// Commits, gets its answer, begins again: the late copy of the first commit ends the second transaction.
fn naive(brokers: &str, proxy: &Proxy) -> anyhow::Result<()> {
    let producer: ThreadedProducer<DefaultProducerContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).set("transactional.id", NAIVE).create()?;
    producer.init_transactions(PATIENCE)?;
    producer.begin_transaction()?;
    publish(&producer, "first")?;
    proxy.keep_next_end();
    producer.commit_transaction(PATIENCE)?; // librdkafka has sent it again, and says that all is well

    producer.begin_transaction()?;
    publish(&producer, "second, aborted")?;
    let code = proxy.deliver_kept()?;
    ensure!(code == 0, "the broker refused the late commit with error {code}; is the test still a test?");
    let _ = producer.abort_transaction(PATIENCE); // too late
    Ok(())
}

fn publish(producer: &ThreadedProducer<DefaultProducerContext>, value: &str) -> anyhow::Result<()> {
    let record = BaseRecord::<(), str>::to(NAIVE).payload(value);
    producer.send(record).map_err(|(error, _)| error)?;
    producer.flush(PATIENCE)?;
    Ok(())
}

/// The same with the writer: it is not used again, and its successor has fenced the late copy before it begins.
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
            findings.push("the writer would be used again".to_owned());
            writer
        }
    };

    proxy.stall_next_end();
    let second = record("second");
    let committing = thread::spawn(move || writer.commit(&[second]));
    proxy.wait_until_stalled()?; // its record is on the broker, and its commit is not
    let code = proxy.deliver_kept()?;
    if code == 0 {
        findings.push("the broker took the late commit".to_owned());
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
    println!("    the relay's writer: replaced after the slow commit; the late one was refused with error {code}");
    Ok(findings)
}
