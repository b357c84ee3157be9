//! Callers who do not read. The program runs as a process of its own, so that its memory is its own.

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use axum::{body::Bytes, http::Request};
use http_body_util::Full;
use hyper_util::rt::TokioExecutor;
use oncelog::testing::eventually;
use serde_json::Value;

/// The memory that the process may take at most.
const MEGABYTES: usize = 128;

struct Program {
    process: Child,
    address: SocketAddr,
}

impl Program {
    fn start(directory: &std::path::Path) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        let (address, nobody) = (free().to_string(), free().to_string());
        let process = Command::new(env!("CARGO_BIN_EXE_order-service"))
            .args(["--listen", &address, "--kafka-embedded", "--kafka-brokers", &nobody])
            .current_dir(directory)
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let program = Self { process, address: address.parse().expect("an address") };
        eventually("it is ready", || program.status("/readyz") == Some(200));
        program
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn status(&self, path: &str) -> Option<u16> {
        Some(agent().get(self.url(path)).call().ok()?.status().as_u16())
    }

    fn post(&self, order: &Value) -> u16 {
        agent().post(self.url("/orders")).send_json(order).expect("an answer").status().as_u16()
    }

    /// The most memory that the process has had.
    fn peak(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("Linux");
        let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("a line");
        line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<usize>().ok()).expect("a number") / 1024
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_not_read_take_bounded_memory() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = Program::start(directory.path());
    let metadata: serde_json::Map<_, _> =
        (0..16).map(|number| (format!("k{number}"), "v".repeat(250).into())).collect();
    let order = serde_json::json!({"amount": 500, "metadata": metadata});
    for _ in 0..300 {
        assert_eq!(program.post(&order), 201);
    }
    let page = agent().get(program.url("/orders?pageSize=1000")).call().expect("a page").body_mut().read_to_string();
    let page = page.expect("text");
    assert!(page.len() < 2 << 20 && page.contains("nextPageToken"), "a page is cut by its bytes: {}", page.len());

    // Large and small answers over HTTP/1.1, many requests on each connection.
    let mut unread = Vec::new();
    for number in 0..150 {
        let path = if number % 3 == 0 { "/openapi.json" } else { "/orders?pageSize=1000" };
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").repeat(20);
        let mut stream = TcpStream::connect(program.address).expect("connects");
        stream.set_write_timeout(Some(Duration::from_secs(1))).expect("set");
        let _ = stream.write_all(request.as_bytes()); // the service may stop reading
        unread.push(stream);
    }
    // Over HTTP/2: the answers begin, and their bodies are kept without being read.
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .http2_only(true)
        .http2_initial_stream_window_size(64 * 1024)
        .http2_initial_connection_window_size(64 * 1024)
        .build_http::<Full<Bytes>>();
    let mut bodies = Vec::new();
    for _ in 0..30 {
        let request = Request::get(program.url("/orders?pageSize=1000")).body(Full::default()).expect("a request");
        // The service may let it wait, because others have not read their answers.
        let answer = tokio::time::timeout(Duration::from_millis(500), client.request(request)).await;
        bodies.extend(answer.ok());
    }
    tokio::time::sleep(Duration::from_secs(2)).await;

    let peak = program.peak();
    assert!(peak < MEGABYTES, "the process took {peak} MB");
    assert_eq!(program.status("/livez"), Some(200));
    assert_eq!(program.post(&serde_json::json!({"amount": 500})), 201, "small answers need no budget");
    let another = program.status("/orders?pageSize=1000");
    assert!([Some(200), Some(429)].contains(&another), "an answer is whole, or refused: {another:?}");
    drop((unread, bodies));
}
