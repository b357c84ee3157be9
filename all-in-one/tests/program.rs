//! Tests of the program itself: started, called, stopped by signals, killed, and restarted.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use oncelog::testing::eventually;
use rusqlite::Connection;
use serde_json::Value;

/// A running program. Killed when dropped.
struct Program {
    process: Child,
    output: mpsc::Receiver<String>,
    listen: String,
}

/// The data directory and the ports of one test.
struct Place {
    directory: tempfile::TempDir,
    ports: [u16; 3],
}

impl Place {
    fn new() -> Self {
        // The ports are bound at the same time, so that they differ. They are free again when this function returns.
        let listeners = [0; 3].map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let ports = listeners.map(|listener| listener.local_addr().expect("has one").port());
        Self { directory: tempfile::tempdir().expect("a directory"), ports }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn command(&self) -> Command {
        self.command_on(&self.data())
    }

    fn command_on(&self, data: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_all-in-one"));
        let [listen, payment_listen, kafka_listen] = self.ports.map(|port| format!("127.0.0.1:{port}"));
        command.args(["--listen", &listen, "--payment-listen", &payment_listen, "--kafka-listen", &kafka_listen]);
        command.arg("--data-dir").arg(data);
        command
    }

    fn start(&self) -> Program {
        let mut process = self.command().stdout(Stdio::piped()).spawn().expect("starts");
        let output = lines(process.stdout.take().expect("piped"));
        let program = Program { process, output, listen: format!("127.0.0.1:{}", self.ports[0]) };
        program.output_until("Ctrl-C stops");
        program
    }

    /// Returns the number of charges of each order in the ledger.
    fn charges(&self) -> Vec<(String, u64)> {
        let ledger = Connection::open(self.data().join("charges.db")).expect("opens");
        let sql = "SELECT key, count(reference) FROM charges GROUP BY key ORDER BY key";
        let mut query = ledger.prepare(sql).expect("a query");
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("reads");
        rows.collect::<Result<_, _>>().expect("reads")
    }
}

#[expect(clippy::disallowed_methods, reason = "a test has no supervisor")]
fn lines(output: ChildStdout) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    receive
}

impl Program {
    /// Reads the output up to a line that contains the text, and returns that line.
    fn output_until(&self, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.output.recv_timeout(left).unwrap_or_else(|_| panic!("no line with {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    fn order(&self, amount: i64) -> String {
        let answer =
            ureq::post(format!("http://{}/orders", self.listen)).send_json(serde_json::json!({"amount": amount}));
        let order: Value = answer.expect("taken").body_mut().read_json().expect("JSON");
        order["orderId"].as_str().expect("an id").to_owned()
    }

    fn state(&self, order: &str) -> String {
        let answer = ureq::get(format!("http://{}/orders/{order}", self.listen)).call();
        let order: Value = answer.expect("known").body_mut().read_json().expect("JSON");
        order["state"].as_str().expect("a state").to_owned()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.process.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
    }

    fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the program ends", || {
            status = self.process.try_wait().expect("it is a child process");
            status.is_some()
        });
        status.expect("just seen")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn an_order_is_paid_and_every_step_is_shown() {
    let place = Place::new();
    let program = place.start();
    let order = program.order(500);
    // Records of two topics have no order among each other.
    let mut awaited = vec!["OrderCreated", "PaymentRequested", "PaymentCompleted", "OrderPaid"];
    while !awaited.is_empty() {
        let line = program.output_until(&order);
        awaited.retain(|event| !line.contains(&format!(" {event} ")));
    }
    assert_eq!(program.state(&order), "PAID");
    let declined = program.order(4001);
    assert!(program.output_until("OrderPaymentFailed").contains("CARD_DECLINED"));
    assert_eq!(program.state(&declined), "PAYMENT_FAILED");
}

#[test]
fn a_signal_stops_it_within_a_second_and_every_order_is_kept() {
    let place = Place::new();
    let mut orders = Vec::new();
    for signal in ["-INT", "-TERM"] {
        let mut program = place.start();
        for _ in 0..3 {
            orders.push(program.order(500));
        }
        let asked = Instant::now();
        program.signal(signal);
        program.output_until("stopping…");
        let kept = format!("stopped; {} orders are kept in {}", orders.len(), place.data().display());
        program.output_until(&kept);
        assert_eq!(program.ended().code(), Some(0));
        assert!(asked.elapsed() < Duration::from_secs(5), "a bound for slow test machines, not the documented one");
    }
    let program = place.start();
    eventually("all are paid", || orders.iter().all(|order| program.state(order) == "PAID"));
    assert!(place.charges().iter().all(|(_, charges)| *charges == 1));
}

/// Kills the program again and again, at different points of an order's life. Each order ends as paid, and none is
/// charged twice.
#[test]
fn a_kill_at_any_point_of_an_orders_life_forgets_none_and_charges_none_twice() {
    const KILLS: u64 = 12;
    let place = Place::new();
    let mut orders = Vec::new();
    for round in 0..KILLS {
        let mut program = place.start();
        for _ in 0..3 {
            orders.push(program.order(500));
        }
        orders.push(program.order(5003)); // charged at the first call, and the answer lost
        pause(Duration::from_millis(round * 4));
        program.process.kill().expect("it is a child process");
        program.ended();
    }
    let program = place.start();
    eventually("all are paid", || orders.iter().all(|order| program.state(order) == "PAID"));
    let charges = place.charges();
    assert_eq!(charges.len(), orders.len());
    for (order, charges) in charges {
        assert_eq!((orders.contains(&order), charges), (true, 1), "{order}");
    }
}

/// Opens the stores of version 0.1.0, in which one refund is still due. Each order has its old state, a repeated call
/// has its old answer, and the refund is made.
#[test]
fn a_store_of_the_first_version_opens_and_continues() {
    let place = Place::new();
    std::fs::create_dir(place.data()).expect("a directory");
    for store in ["orders", "payments", "charges"] {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data-0.1.0/{store}.sqlite"));
        std::fs::copy(kept, place.data().join(format!("{store}.db"))).expect("copies");
    }

    let program = place.start();

    for (order, state) in [
        ("915c011f-0834-56c4-8f2d-782775d4223d", "PAID"),
        ("eb9990ca-8182-5ed5-a9c5-40849749a99b", "PAYMENT_FAILED"),
        ("250cce46-817c-5e14-83e2-979d5a231044", "REFUNDED"),
        ("05c4f09d-66e1-51e0-b71a-9a10f691f626", "CANCELLING"), // its payment needs a review
        ("01a21ccb-e261-7515-8a5a-34415cd43c9c", "PAID"),
    ] {
        assert_eq!(program.state(order), state, "{order}");
    }
    let due = "7c18ba5c-1332-5bc0-9487-468c1b62bec6";
    eventually("the refund that was due is made", || program.state(due) == "REFUNDED");

    let repeated = ureq::post(format!("http://{}/orders", program.listen))
        .header("idempotency-key", "\"r-paid\"")
        .send_json(serde_json::json!({"amount": 500}));
    let repeated: Value = repeated.expect("taken").body_mut().read_json().expect("JSON");
    assert_eq!(repeated["orderId"], "915c011f-0834-56c4-8f2d-782775d4223d");
    assert_eq!(repeated["createTime"], "2026-11-27T11:37:33.467201Z");

    let list = |filter: &str| {
        let answer = ureq::get(format!("http://{}/orders?{filter}", program.listen)).call();
        let list: Value = answer.expect("answered").body_mut().read_json().expect("JSON");
        list["orders"].as_array().expect("a list").len()
    };
    assert_eq!([list("customerId=c-1"), list("state=PAID"), list("customerId=c-1&state=REFUNDED")], [2, 2, 1]);
}

/// Sleeps, so that the kills hit different points of an order's life: from before its publishing to after its payment.
#[expect(clippy::disallowed_methods, reason = "chooses a moment, waits for nothing")]
fn pause(duration: Duration) {
    thread::sleep(duration);
}

#[test]
fn what_cannot_start_says_so_in_one_line_with_the_right_code() {
    let place = Place::new();
    let _running = place.start();
    let other = Place::new();

    let failed = |command: &mut Command| {
        let output = command.output().expect("runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    let (code, said) = failed(other.command().arg("--no-such-flag"));
    assert_eq!(code, Some(64));
    assert!(said.contains("--no-such-flag"), "{said}");

    let taken = Place { ports: [place.ports[0], other.ports[1], other.ports[2]], directory: other.directory };
    let (code, said) = failed(&mut taken.command());
    assert_eq!((code, said.lines().count()), (Some(78), 1), "{said}");
    assert!(said.contains("cannot listen on") && said.contains("--listen"), "{said}");

    let other = Place { ports: other.ports, directory: taken.directory };
    let (code, said) = failed(&mut other.command_on(&place.data()));
    assert_eq!((code, said.lines().count()), (Some(78), 1), "{said}");
    assert!(said.contains("in use by process"), "{said}");

    std::fs::create_dir_all(other.data()).expect("a directory");
    std::fs::write(other.data().join("orders.db"), b"notes that are no database at all, and long enough to tell")
        .expect("writes");
    let (code, said) = failed(&mut other.command());
    assert_eq!((code, said.lines().count()), (Some(78), 1), "{said}");
    assert!(said.contains("orders.db is not an event store"), "{said}");

    let (code, said) = failed(&mut other.command_on(Path::new("/proc/nowhere")));
    assert_eq!((code, said.lines().count()), (Some(78), 1), "{said}");
}
