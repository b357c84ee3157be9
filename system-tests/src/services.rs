//! The two programs, as processes.

use std::{
    fs::File,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::tools;

/// Longer than anything takes to start.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Orders,
    Payments,
}

/// Builds both programs, and returns the directory they are in.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    tools::run(Command::new(env!("CARGO")).args([
        "build",
        "-q",
        "--locked",
        "-p",
        "order-service",
        "-p",
        "payment-service",
    ]))?;
    let own = std::env::current_exe().context("this program has no path")?;
    Ok(own.parent().context("a program is in a directory")?.to_owned())
}

/// Both services. Killed when dropped.
pub(crate) struct Services {
    orders: Service,
    payments: Service,
    directory: PathBuf,
}

struct Service {
    command: Box<dyn Fn() -> Command>,
    log: PathBuf,
    address: SocketAddr,
    process: Child,
}

impl Services {
    pub(crate) fn start(programs: &Path, directory: &Path, brokers: &str) -> anyhow::Result<Self> {
        let orders = Service::start(programs, directory, brokers, "order-service", &["--store", "sqlite:orders.db"])?;
        let payments = Service::start(
            programs,
            directory,
            brokers,
            "payment-service",
            &["--store", "sqlite:payments.db", "--gateway", "simulated:charges.db"],
        )?;
        Ok(Self { orders, payments, directory: directory.to_owned() })
    }

    pub(crate) fn orders_url(&self) -> String {
        format!("http://{}/orders", self.orders.address)
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.directory.join("charges.db")
    }

    pub(crate) fn restart(&mut self, kind: Kind) -> anyhow::Result<()> {
        self.of(kind).stop()?;
        self.of(kind).start_again()
    }

    pub(crate) fn kill_and_start(&mut self, kind: Kind) -> anyhow::Result<()> {
        self.of(kind).process.kill()?;
        self.of(kind).process.wait()?;
        self.of(kind).start_again()
    }

    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        self.orders.stop()?;
        self.payments.stop()
    }

    fn of(&mut self, kind: Kind) -> &mut Service {
        match kind {
            Kind::Orders => &mut self.orders,
            Kind::Payments => &mut self.payments,
        }
    }
}

impl Service {
    fn start(programs: &Path, directory: &Path, brokers: &str, name: &str, args: &[&str]) -> anyhow::Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let program = programs.join(name);
        let log = directory.join(format!("{name}.log"));
        let mut flags = vec!["--listen".to_owned(), address.to_string()];
        flags.extend(["--kafka-brokers", brokers, "--topic-partitions", "3"].map(str::to_owned));
        flags.extend(args.iter().map(|arg| (*arg).to_owned()));
        let directory = directory.to_owned();
        let command = Box::new(move || {
            let mut command = Command::new(&program);
            command.args(&flags).current_dir(&directory).stdin(Stdio::null());
            command
        });
        let process = spawn(command(), &log, address)?;
        Ok(Self { command, log, address, process })
    }

    fn start_again(&mut self) -> anyhow::Result<()> {
        self.process = spawn((self.command)(), &self.log, self.address)?;
        Ok(())
    }

    /// Asks it to stop, and expects the exit code of a clean stop.
    fn stop(&mut self) -> anyhow::Result<()> {
        signal(&self.process, "-TERM")?;
        let status = self.process.wait()?;
        if !status.success() {
            bail!("it ended with {status}; its log is {}", self.log.display());
        }
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(mut command: Command, log: &Path, address: SocketAddr) -> anyhow::Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    let mut process = command.stderr(log).spawn().with_context(|| format!("cannot start {command:?}"))?;
    wait_until_it_listens(&mut process, address)?;
    Ok(process)
}

#[expect(clippy::disallowed_methods, reason = "a short pause before it looks again")]
pub(crate) fn wait_until_it_listens(process: &mut Child, address: SocketAddr) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() {
        if let Some(status) = process.try_wait()? {
            bail!("it ended with {status}");
        }
        if Instant::now() > deadline {
            bail!("nothing listens on {address} after {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

pub(crate) fn signal(process: &Child, name: &str) -> anyhow::Result<()> {
    tools::run(Command::new("kill").args([name, &process.id().to_string()])).map(drop)
}
