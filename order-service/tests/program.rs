//! Tests of the program itself: an absent broker, signals, a full disk, and starts that fail.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use oncelog::testing::eventually;
use tempfile::TempDir;

struct Program {
    process: Child,
    address: SocketAddr,
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

/// Starts the program on a store in the directory, by `sh`, after the shell commands in `before`. Its broker is away. On
/// an embedded broker, a new store takes calls all the same.
fn start(directory: &TempDir, before: &str) -> Program {
    let (address, nobody) = (free_address(), free_address());
    let program = env!("CARGO_BIN_EXE_order-service");
    let process = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "{before} exec {program} --listen {address} --kafka-embedded \
             --kafka-brokers {nobody} --store sqlite:orders.db"
        ))
        .current_dir(directory.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    eventually("the program listens", || TcpStream::connect(address).is_ok());
    Program { process, address }
}

impl Program {
    fn post(&self, customer: &str) -> u16 {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let order = serde_json::json!({"amount": 500, "customerId": customer});
        agent.post(format!("http://{}/orders", self.address)).send_json(order).expect("an answer").status().as_u16()
    }

    /// Sends a signal, and returns the exit code and the log.
    fn stop(mut self, signal: &str) -> (Option<i32>, String) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("kill runs").success());
        let mut log = String::new();
        self.process.stderr.take().expect("piped").read_to_string(&mut log).expect("text");
        (self.process.wait().expect("ends").code(), log)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn without_a_broker_orders_are_taken_and_either_signal_stops_it_cleanly() {
    let directory = tempfile::tempdir().expect("a directory");
    for signal in ["-TERM", "-INT"] {
        let program = start(&directory, "");
        assert_eq!(program.post("c"), 201);
        let mut idle = TcpStream::connect(program.address).expect("connects"); // an idle client
        idle.write_all(b"GET /orders/").expect("writes");
        let (code, log) = program.stop(signal);
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("starting") && log.contains("stopped"), "{log}");
    }
}

/// A limit on the size of the program's files replaces a full disk.
#[test]
fn a_full_disk_refuses_calls_and_loses_nothing_that_was_answered() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = start(&directory, "trap '' XFSZ; ulimit -f 400;"); // blocks of 512 bytes
    let taken = (0..5000).take_while(|_| program.post(&"x".repeat(64)) == 201).count();
    assert!((1..5000).contains(&taken), "{taken}");
    assert_eq!(program.post("c"), 503);
    let (code, log) = program.stop("-TERM");
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("the store cannot write"), "{log}");

    drop(start(&directory, ""));
    let store = rusqlite::Connection::open(directory.path().join("orders.db")).expect("opens");
    let count = |sql| store.query_row(sql, [], |row| row.get::<_, usize>(0)).expect("reads");
    assert_eq!(count("SELECT count(*) FROM orders"), taken);
    assert_eq!(count("SELECT max(position) FROM events"), taken);
}

#[test]
fn what_cannot_start_says_so_in_one_line_with_the_right_code() {
    let directory = tempfile::tempdir().expect("a directory");
    let running = start(&directory, "");
    let failed = |listen: SocketAddr, store: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_order-service"));
        command.args(["--listen", &listen.to_string(), "--store", store]).current_dir(directory.path());
        let output = command.output().expect("runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    let cases = [
        (running.address, "sqlite:other.db", 78, "cannot listen on"),
        (free_address(), "sqlite:orders.db", 78, "in use by process"),
        (free_address(), "sqlite:no/such/directory.db", 78, "no/such/directory.db"),
        (free_address(), "postgres:orders", 64, "a store is given as sqlite:PATH"),
    ];
    for (listen, store, code, text) in cases {
        let (actual, said) = failed(listen, store);
        assert_eq!(actual, Some(code), "{said}");
        assert!(said.contains(text), "{said}");
        assert!(code == 64 || said.lines().count() == 1, "{said}");
    }
}

fn run(directory: &TempDir, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_order-service"));
    let output = command.args(args).current_dir(directory.path()).output().expect("runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_log_and_the_health_are_shown_beside_the_running_service() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = start(&directory, "");
    for customer in ["ann", "bob", "cid"] {
        assert_eq!(program.post(customer), 201);
    }
    let (code, log, _) = run(&directory, &["log", "--from", "2"]);
    assert_eq!((code, log.lines().count()), (Some(0), 2), "{log}");
    assert!(log.contains("OrderCreated") && log.contains(r#""customerId":"bob""#), "{log}");

    let (_, log, _) = run(&directory, &["log", "--json"]);
    let events: Vec<serde_json::Value> = log.lines().map(|line| line.parse().expect("JSON")).collect();
    let order = events[2]["message"]["orderId"].as_str().expect("an id");
    assert_eq!((&events[2]["position"], &events[2]["message"]["orderCreated"]["amount"]), (&3.into(), &500.into()));
    let (_, log, _) = run(&directory, &["log", "--order", order]);
    assert!(log.lines().count() == 1 && log.contains("cid"), "{log}");

    let mut follow = Command::new(env!("CARGO_BIN_EXE_order-service"));
    let follow = follow.args(["log", "--follow", "--from", "4"]).current_dir(directory.path());
    let mut follow = follow.stdout(Stdio::piped()).spawn().expect("starts");
    assert_eq!(program.post("dot"), 201);
    let mut lines = BufReader::new(follow.stdout.take().expect("piped")).lines();
    assert!(lines.next().expect("a line").expect("text").contains("dot"));
    drop(lines); // closes the pipe
    assert_eq!(program.post("eve"), 201);
    assert_eq!(follow.wait().expect("ends").code(), Some(0));

    let listen = program.address.to_string();
    assert_eq!(run(&directory, &["health", "--listen", &listen]).0, Some(0));
    drop(program);
    assert_eq!(run(&directory, &["health", "--listen", &listen]).0, Some(69));
    let (code, _, said) = run(&directory, &["log", "--store", "sqlite:none.db"]);
    assert!(code == Some(78) && said.contains("none.db") && !directory.path().join("none.db").exists(), "{said}");
}
