//! Tests of the program with TLS: accepted and refused callers, and new certificates without a restart.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
};

use contracts::proto::orders::v1::{CreateOrderRequest, order_service_client::OrderServiceClient};
use oncelog::testing::eventually;
use rcgen::{
    BasicConstraints, Certificate as Signed, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};
use tonic::{
    Status,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed")
}

fn signed_by(authority: &Authority, purpose: ExtendedKeyUsagePurpose, last_year: i32) -> (Signed, KeyPair) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    params.extended_key_usages = vec![purpose];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(last_year, 12, 31);
    let key = KeyPair::generate().expect("a key");
    (params.signed_by(&key, authority).expect("signed"), key)
}

fn write_server(directory: &Path, authority: &Authority) {
    let (certificate, key) = signed_by(authority, ExtendedKeyUsagePurpose::ServerAuth, 2099);
    fs::write(directory.join("server.pem"), certificate.pem()).expect("writes");
    fs::write(directory.join("server.key"), key.serialize_pem()).expect("writes");
}

fn client(authority: &Authority, last_year: i32) -> Identity {
    let (certificate, key) = signed_by(authority, ExtendedKeyUsagePurpose::ClientAuth, last_year);
    Identity::from_pem(certificate.pem(), key.serialize_pem())
}

/// The program. Killed when dropped.
struct Program {
    process: Child,
    address: SocketAddr,
    ops: SocketAddr,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(directory: &Path, address: SocketAddr, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_order-service"));
    command.args(["--listen", &address.to_string(), "--kafka-embedded", "--kafka-brokers", "127.0.0.1:9"]).args(flags);
    command.current_dir(directory).stderr(Stdio::piped());
    command
}

fn start(directory: &Path, flags: &[&str]) -> Program {
    let [address, ops] = free_addresses();
    let ops_flag = ["--ops-listen", &ops.to_string()].map(str::to_owned);
    let process = command(directory, address, flags).args(ops_flag).spawn().expect("starts");
    eventually("a probe without a certificate finds the program ready", || {
        ureq::get(format!("http://{ops}/readyz")).call().is_ok()
    });
    Program { process, address, ops }
}

fn free_addresses() -> [SocketAddr; 2] {
    let listeners = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("has one"))
}

impl Program {
    /// Creates an order over a new connection.
    async fn order(&self, trusted: &Authority, identity: Option<Identity>) -> Result<(), Status> {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(trusted.pem())).domain_name("localhost");
        let tls = identity.into_iter().fold(tls, ClientTlsConfig::identity);
        let endpoint = Channel::from_shared(format!("https://{}", self.address)).expect("an address");
        let channel = endpoint.tls_config(tls).expect("accepted").connect_lazy();
        let request = CreateOrderRequest { amount: 500, ..CreateOrderRequest::default() };
        OrderServiceClient::new(channel).create_order(request).await.map(drop)
    }
}

const TLS: [&str; 4] = ["--tls-cert", "server.pem", "--tls-key", "server.key"];

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_taken_over_tls_and_new_certificates_without_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let (ours, other) = (authority("ours"), authority("other"));
    write_server(directory.path(), &ours);
    let program = start(directory.path(), &TLS);
    program.order(&ours, None).await.expect("taken");
    program.order(&other, None).await.expect_err("the caller does not trust the certificate");
    let plain = ureq::get(format!("http://{}/readyz", program.address)).call();
    assert!(plain.is_err(), "plain HTTP was answered on the port for TLS");
    let metrics = ureq::get(format!("http://{}/metrics", program.ops)).call().expect("answered");
    assert_eq!(metrics.status(), 200);

    fs::write(directory.path().join("server.pem"), "half a file").expect("writes");
    program.order(&ours, None).await.expect("the old certificate stays in use while the new one is not valid");
    write_server(directory.path(), &other);
    for _ in 0..100 {
        if program.order(&other, None).await.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    program.order(&other, None).await.expect("taken with the new certificate");
    program.order(&ours, None).await.expect_err("the old certificate is no longer in use");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_mutual_tls_only_callers_with_a_good_certificate_are_taken() {
    let directory = tempfile::tempdir().expect("a directory");
    let (ours, callers, stranger) = (authority("ours"), authority("callers"), authority("stranger"));
    write_server(directory.path(), &ours);
    fs::write(directory.path().join("callers.pem"), callers.pem()).expect("writes");
    let program = start(directory.path(), &[TLS.as_slice(), &["--tls-client-ca", "callers.pem"]].concat());
    program.order(&ours, Some(client(&callers, 2099))).await.expect("taken");
    program.order(&ours, None).await.expect_err("no certificate");
    program.order(&ours, Some(client(&stranger, 2099))).await.expect_err("signed by a wrong authority");
    program.order(&ours, Some(client(&callers, 2021))).await.expect_err("expired");
}

#[test]
fn certificates_that_cannot_be_used_are_named_before_anything_starts() {
    let directory = tempfile::tempdir().expect("a directory");
    let (one, other) = (authority("one"), authority("other"));
    write_server(directory.path(), &one);
    fs::rename(directory.path().join("server.key"), directory.path().join("first.key")).expect("renames");
    write_server(directory.path(), &other);
    fs::write(directory.path().join("empty.pem"), "").expect("writes");
    let cases: [(&[&str], i32, &str); 4] = [
        (&["--tls-cert", "none.pem", "--tls-key", "server.key"], 78, "none.pem"),
        (&["--tls-cert", "empty.pem", "--tls-key", "server.key"], 78, "empty.pem: holds no certificate"),
        (&["--tls-cert", "server.pem", "--tls-key", "first.key"], 78, "do not fit together"),
        (&["--tls-cert", "server.pem"], 64, "--tls-key"),
    ];
    for (flags, code, text) in cases {
        let output = command(directory.path(), free_addresses()[0], flags).output().expect("runs");
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(text), "{said}");
    }
}
