//! Runs a broker with TLS, SASL (SCRAM and OAUTHBEARER) and access control. It grants each service exactly the
//! permissions that `docs/operations.md` lists.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
    time::SystemTime,
};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as URL_SAFE_NO_PAD};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use serde_json::json;

use crate::{
    Ground, Table,
    kafka::Kafka,
    load,
    services::{Kind, Service},
};

const ORDERS: usize = 50;

/// Permissions of a service: the resource, its name or prefix, and the operations. `docs/operations.md` has the same
/// list.
type Grants<'a> = &'a [(&'a str, &'a str, &'a [&'a str])];

const OWN_TOPIC: &[&str] = &["Create", "Describe", "DescribeConfigs", "Write"];

const ORDER_SERVICE: Grants<'_> = &[
    ("--topic", "order-events", &["Create", "Describe", "DescribeConfigs", "Write", "Read"]),
    ("--topic", "order-service.checkpoints", &["Create", "Describe", "DescribeConfigs", "Write", "Read"]),
    ("--topic", "order-service.dead-letters", OWN_TOPIC),
    ("--topic", "order-service.retries", &["Create", "Describe", "DescribeConfigs", "Read"]),
    ("--topic", "payment-events", &["Describe", "Read"]),
    ("--group", "order-service", &["Read"]),
    ("--transactional-id", "order-service-", &["Describe", "Write"]), // a prefix: the store's id follows
];

const PAYMENT_SERVICE: Grants<'_> = &[
    ("--topic", "payment-events", &["Create", "Describe", "DescribeConfigs", "Write", "Read"]),
    ("--topic", "payment-service.checkpoints", &["Create", "Describe", "DescribeConfigs", "Write", "Read"]),
    ("--topic", "payment-service.dead-letters", OWN_TOPIC),
    ("--topic", "payment-service.retries", &["Create", "Describe", "DescribeConfigs", "Read"]),
    ("--topic", "order-events", &["Describe", "Read"]),
    ("--group", "payment-service", &["Read"]),
    ("--transactional-id", "payment-service-", &["Describe", "Write"]),
];

/// Permissions of an operator who lists and replays the dead letters of order-service.
const OPERATOR: Grants<'_> = &[
    ("--topic", "order-service.dead-letters", &["Describe", "Read", "Write"]),
    ("--topic", "order-service.retries", &["Describe", "Write"]),
    ("--group", "order-service", &["Read"]),
    ("--transactional-id", "order-service-dead-letters-", &["Describe", "Write"]),
];

/// Permissions of a user who audits order-service.
const AUDITOR: Grants<'_> = &[
    ("--topic", "order-events", &["Describe", "Read"]),
    ("--topic", "payment-events", &["Describe", "Read"]),
    ("--topic", "order-service.checkpoints", &["Describe", "Read"]),
    ("--topic", "order-service.dead-letters", &["Describe", "Read"]),
    ("--topic", "order-service.retries", &["Describe", "Read"]),
    ("--group", "order-service", &["Read"]),
];

#[expect(clippy::too_many_lines, reason = "the scenario, from beginning to end")]
pub(crate) fn run(ground: &Ground) -> anyhow::Result<Table> {
    let Ground { jars, programs, reader, .. } = ground;
    let directory = tempfile::tempdir()?;
    certificates(directory.path())?;
    let (kafka, secure) = Kafka::start_secured(jars, directory.path())?;
    for (user, grants) in [
        ("order-service", ORDER_SERVICE),
        ("payment-service", PAYMENT_SERVICE),
        ("operator", OPERATOR),
        ("auditor", AUDITOR),
        ("stranger", &[]),
    ] {
        kafka.add_user(user, &password(user))?;
        for (resource, name, operations) in grants {
            kafka.grant(user, resource, name, operations)?;
        }
    }
    let start = |kind: Kind, name: &str, sasl: &str| {
        let home = directory.path().join(name);
        fs::create_dir_all(&home)?;
        fs::write(home.join("client.properties"), properties(directory.path(), sasl))?;
        Service::start(programs, &home, &secure, kind, &["--kafka-config", "client.properties"])
    };

    let mut orders = start(Kind::Orders, "orders", &scram("order-service", &password("order-service")))?;
    let payments = start(Kind::Payments, "payments", &oauthbearer("payment-service")?)?;
    let placed = load::place_some(&orders.orders_url(), (0..ORDERS).map(|number| format!("order-{number}")))?;
    let brokers = kafka.address();
    let services = || format!("{}\n{}", orders.last_lines(), payments.last_lines());
    let paid = reader.wait_for(&brokers, "payment-events", &placed).with_context(services)?;
    let settled =
        reader.wait_until(&brokers, "order-events", |records| records.len() == 2 * ORDERS).with_context(services)?;
    crate::dead_letters::publish(&brokers, &["01a20859-c427-7384-b47b-d18ff68dd444".to_owned()])?;
    fs::write(
        directory.path().join("orders/operator.properties"),
        properties(directory.path(), &scram("operator", &password("operator"))),
    )?;
    let operator = ["--kafka-brokers", &secure, "--kafka-config", "operator.properties"];
    let ask = |what: &[&str]| orders.subcommand(&[&["dead-letters"], what, &operator].concat());
    orders.wait_for_line(&["sent a record to the dead letters"])?;
    let (code, said) = ask(&["list"])?;
    ensure!(code == Some(0) && said.contains("there is no such order"), "{code:?}: {said}");
    let (code, said) = ask(&["replay", "--all"])?;
    ensure!(code == Some(0) && said.contains("1 replayed"), "{code:?}: {said}");
    fs::write(
        directory.path().join("orders/auditor.properties"),
        properties(directory.path(), &scram("auditor", &password("auditor"))),
    )?;
    let (code, said) =
        orders.subcommand(&["audit", "--kafka-brokers", &secure, "--kafka-config", "auditor.properties"])?;
    ensure!(code == Some(0), "{code:?}: {said}");
    let mut findings = Vec::new();
    for service in [&orders, &payments] {
        let refused: Vec<_> =
            service.last_lines().lines().filter(|line| line.contains("uthoriz")).map(str::to_owned).collect();
        findings.extend(refused);
    }
    println!("    TLS, SCRAM-SHA-512 and OAUTHBEARER, and only the listed permissions: {ORDERS} orders are paid");

    orders.stop()?;
    let wrong = scram("order-service", "wrong");
    let stranger = scram("stranger", &password("stranger"));
    for (sasl, why) in [(&wrong, "uthentication"), (&stranger, "uthoriz")] {
        let mut denied = start(Kind::Orders, "orders", sasl)?;
        denied.wait_for_line(&["publishing to order-events waits", why])?;
        ensure!(load::place_some(&denied.orders_url(), [format!("meanwhile-{why}")])?.len() == 1);
        denied.stop()?;
    }
    let new = start(Kind::Orders, "new", &wrong)?;
    new.wait_for_line(&["publishing to order-events waits", "uthentication"])?;
    ensure!(load::place_once(&new.orders_url(), "meanwhile").is_err(), "a new store has accepted an order");
    println!("    a wrong password, a user without permissions: logged and retried, and orders are accepted meanwhile");
    println!("    the same with a new store: no order is accepted before it has met its cluster");
    Ok(vec![("security", (paid.len() + settled.len(), findings))])
}

fn password(user: &str) -> String {
    format!("{user}-secret")
}

/// Returns a client configuration in the format of Kafka's own tools.
fn properties(directory: &Path, sasl: &str) -> String {
    let authority = directory.join("ca.pem");
    format!(
        "security.protocol=SASL_SSL\nssl.truststore.type=PEM\nssl.truststore.location={}\n{sasl}",
        authority.display()
    )
}

fn scram(user: &str, password: &str) -> String {
    format!(
        "sasl.mechanism=SCRAM-SHA-512\n\
         sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required \\\n\
         \x20   username=\"{user}\" password=\"{password}\";\n"
    )
}

fn oauthbearer(user: &str) -> anyhow::Result<String> {
    let tokens = token_endpoint(user)?;
    Ok(format!(
        "sasl.mechanism=OAUTHBEARER\n\
         sasl.oauthbearer.token.endpoint.url=http://{tokens}/token\n\
         sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required \\\n\
         \x20   clientId=\"{user}\" clientSecret=\"{}\";\n",
        password(user)
    ))
}

/// Answers every request with an unsigned token for the user. The broker accepts it, because no keys are configured.
#[expect(clippy::disallowed_methods, reason = "the tests have no supervisor")]
fn token_endpoint(user: &str) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let user = user.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let answered = stream.and_then(|stream| answer(stream, &token(&user)));
            if let Err(error) = answered {
                println!("    the token endpoint: {error}");
            }
        }
    });
    Ok(address)
}

fn token(user: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let claims = json!({"sub": user, "iat": now, "exp": now + 3600});
    let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
    format!("{}.{}.", part(json!({"alg": "none"})), part(claims))
}

fn answer(stream: TcpStream, token: &str) -> io::Result<()> {
    let mut request = BufReader::new(&stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        request.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line.is_empty() {
            break;
        }
    }
    io::copy(&mut request.take(length), &mut io::sink())?;
    let body = json!({"access_token": token, "token_type": "Bearer", "expires_in": 3600}).to_string();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length:";
    write!(&stream, "{head} {}\r\n\r\n{body}", body.len())
}

/// Writes the certificate of an authority, and a certificate for the broker that it signs.
fn certificates(directory: &Path) -> anyhow::Result<()> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "authority"); // not the name that it signs
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let certificate = CertificateParams::new(names)?.signed_by(&key, &authority)?;
    fs::write(directory.join("ca.pem"), authority.pem())?;
    fs::write(directory.join("broker.pem"), format!("{}{}", key.serialize_pem(), certificate.pem()))?;
    Ok(())
}
