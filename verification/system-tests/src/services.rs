//! Builds the two programs, and runs them as processes.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

use crate::{load, tools};

/// Timeout for a process to start, end, or log a line.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Orders,
    Payments,
    Shipping,
}

impl Kind {
    /// Returns a topic that the service consumes.
    pub(crate) fn reads(self) -> &'static str {
        match self {
            Self::Orders | Self::Shipping => "payment-events",
            Self::Payments => "order-events",
        }
    }
}

/// Builds both programs and the example, and returns their directory.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    build_with(&["kafka-tls"], &["-p", "shipping-service"])
}

/// Builds both programs with crash points, copies them to a directory, and returns it.
pub(crate) fn build_with_faults(kept: &Path) -> anyhow::Result<PathBuf> {
    let (built, kept) = (build_with(&["kafka-tls", "faults"], &[])?, kept.join("with-faults"));
    fs::create_dir_all(&kept)?;
    for name in ["order-service", "payment-service"] {
        let _ = fs::remove_file(kept.join(name)); // replaced, not overwritten: it may be a link to a running program
        fs::copy(built.join(name), kept.join(name))?;
    }
    Ok(kept)
}

fn build_with(features: &[&str], more: &[&str]) -> anyhow::Result<PathBuf> {
    let of =
        |service: &str| features.iter().map(|feature| format!("{service}/{feature}")).collect::<Vec<_>>().join(",");
    let features = [of("order-service"), of("payment-service")].join(",");
    let args = ["build", "-q", "--locked", "-p", "order-service", "-p", "payment-service", "--features", &features];
    let release = if cfg!(debug_assertions) { None } else { Some("--release") };
    tools::run(Command::new(env!("CARGO")).args(args).args(more).args(release))?;
    let own = std::env::current_exe().context("cannot find the path of this program")?;
    Ok(own.parent().context("the path of this program has no directory")?.to_owned())
}

/// Both services. Killed when dropped.
pub(crate) struct Services {
    pub(crate) orders: Service,
    pub(crate) payments: Service,
}

impl Services {
    pub(crate) fn start(programs: &Path, directory: &Path, brokers: &str) -> anyhow::Result<Self> {
        Self::start_with(programs, directory, brokers, &[], &[])
    }

    /// Starts both with additional flags for both, and for payment-service.
    pub(crate) fn start_with(
        programs: &Path,
        directory: &Path,
        brokers: &str,
        both: &[&str],
        payments: &[&str],
    ) -> anyhow::Result<Self> {
        let orders = Service::start(programs, directory, brokers, Kind::Orders, both)?;
        let payments = Service::start(programs, directory, brokers, Kind::Payments, &[both, payments].concat())?;
        Ok(Self { orders, payments })
    }

    pub(crate) fn of(&mut self, kind: Kind) -> &mut Service {
        match kind {
            Kind::Orders => &mut self.orders,
            Kind::Payments => &mut self.payments,
            Kind::Shipping => unreachable!("the example is not one of both"),
        }
    }

    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        self.orders.stop()?;
        self.payments.stop()
    }
}

/// One program as a process. Killed when dropped.
pub(crate) struct Service {
    pub(crate) name: &'static str,
    command: Box<dyn Fn() -> Command>,
    directory: PathBuf,
    log: PathBuf,
    /// The file with the armed crash points. See the kit's `runtime/fault.rs`.
    faults: PathBuf,
    address: SocketAddr,
    process: Child,
}

impl Service {
    /// Starts the service with its files in a directory, and with additional flags.
    pub(crate) fn start(
        programs: &Path,
        directory: &Path,
        brokers: &str,
        kind: Kind,
        more: &[&str],
    ) -> anyhow::Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let (name, files) = match kind {
            Kind::Orders => ("order-service", ["--store", "sqlite:orders.db"].as_slice()),
            Kind::Payments => {
                ("payment-service", ["--store", "sqlite:payments.db", "--gateway", "simulated:charges.db"].as_slice())
            }
            Kind::Shipping => ("shipping-service", ["--store", "sqlite:shipping.db"].as_slice()),
        };
        let program = programs.join(name);
        let log = directory.join(format!("{name}.log"));
        let faults = directory.join(format!("{name}.faults"));
        let mut flags = vec!["--listen".to_owned(), address.to_string()];
        flags.extend(["--kafka-brokers", brokers, "--topic-partitions", "3"].map(str::to_owned));
        flags.extend(files.iter().chain(more).map(|arg| (*arg).to_owned()));
        let directory = directory.to_owned();
        let (place, file) = (directory.clone(), faults.clone());
        let command = Box::new(move || {
            let mut command = Command::new(&program);
            command.args(&flags).current_dir(&place).stdin(Stdio::null()).env("FAULTS_FILE", &file);
            command
        });
        let process = spawn(command(), &log, address)?;
        Ok(Self { name, command, directory, log, faults, address, process })
    }

    pub(crate) fn orders_url(&self) -> String {
        self.url("orders")
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Returns the path of a file of the service.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Arms crash points. Each line has a step, a disturbance, the number of undisturbed steps, and of disturbed ones.
    pub(crate) fn arm(&self, lines: &str) -> anyhow::Result<()> {
        let written = self.faults.with_extension("written");
        fs::write(&written, lines)?;
        Ok(fs::rename(written, &self.faults)?)
    }

    /// Returns true if all armed crash points were reached.
    pub(crate) fn has_met_them(&self) -> bool {
        !self.faults.exists()
    }

    /// Returns true if a crash point whose line begins like this is still armed.
    pub(crate) fn looks_out_for(&self, beginning: &str) -> bool {
        let armed = fs::read_to_string(&self.faults).unwrap_or_default();
        armed.lines().any(|line| line.starts_with(beginning))
    }

    /// Disarms the remaining crash points.
    pub(crate) fn disarm(&self) {
        let _ = fs::remove_file(&self.faults);
    }

    pub(crate) fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.process.try_wait()?.is_some())
    }

    /// Stops the service, expects the exit code of a clean stop, and starts it again.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        self.stop()?;
        self.start_again()
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn kill_and_start(&mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        self.start_again()
    }

    /// Starts the service again after it has ended.
    pub(crate) fn start_again(&mut self) -> anyhow::Result<()> {
        self.process = spawn((self.command)(), &self.log, self.address)?;
        Ok(())
    }

    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        self.check()?;
        signal(&self.process, "-TERM")?;
        let status = self.process.wait()?;
        if !status.success() {
            bail!("{} ended with {status}:\n{}", self.log.display(), self.last_lines());
        }
        Ok(())
    }

    /// Suspends the process with SIGSTOP, until [`resume`](Self::resume).
    pub(crate) fn freeze(&self) -> anyhow::Result<()> {
        signal(&self.process, "-STOP")
    }

    pub(crate) fn resume(&self) -> anyhow::Result<()> {
        signal(&self.process, "-CONT")
    }

    /// Returns an error with the end of the log if the process has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}:\n{}", self.log.display(), self.last_lines()),
        }
    }

    /// Waits until the process ends, and returns its exit code.
    #[expect(clippy::disallowed_methods, reason = "a short pause between two polls")]
    pub(crate) fn wait_until_it_ends(&mut self) -> anyhow::Result<Option<i32>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status.code());
            }
            if Instant::now() > deadline {
                bail!("the process did not end within {PATIENCE:?}:\n{}", self.last_lines());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Places orders, retrying each until it is answered, and returns their ids.
    pub(crate) fn place(&self, name: &str, count: usize) -> anyhow::Result<Vec<String>> {
        load::place_some(&self.orders_url(), (0..count).map(|number| format!("{name}-{number}")))
    }

    /// Waits until the process ends because a part of it cannot continue, and expects exactly one logged error, with
    /// this reason.
    pub(crate) fn expect_end(&mut self, reason: &str) -> anyhow::Result<()> {
        let code = self.wait_until_it_ends()?;
        ensure!(code == Some(70), "the process ended with {code:?}:\n{}", self.last_lines());
        self.expect_one_error(reason)
    }

    /// Waits until the service refuses its store for this reason, and expects exactly one logged error. The process goes
    /// on: it is not ready, and refuses calls with the reason.
    pub(crate) fn expect_refusal(&mut self, reason: &str) -> anyhow::Result<()> {
        self.wait_until_it_refuses(reason)?;
        self.expect_one_error(reason)?;
        self.expect_a_refused_call(reason)
    }

    /// Stops a service that refuses its store, starts it again, and expects that it still refuses the store.
    pub(crate) fn expect_refusal_after_restart(&mut self, reason: &str) -> anyhow::Result<()> {
        self.restart()?;
        self.wait_until_it_refuses(reason)?;
        self.expect_a_refused_call(reason)
    }

    #[expect(clippy::disallowed_methods, reason = "a short pause between two polls")]
    fn wait_until_it_refuses(&mut self, reason: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.check()?;
            let (status, text) = load::get(&self.url("readyz")).unwrap_or_default();
            if status == 503 && text.contains(reason) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{status}: {text}\n{}", self.last_lines());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn expect_a_refused_call(&self, reason: &str) -> anyhow::Result<()> {
        let (status, text) = load::get(&self.url("orders"))?;
        ensure!(status == 503 && text.contains("STORE_REFUSED") && text.contains(reason), "{status}: {text}");
        let refused = load::metric(&self.url("metrics"), "event_store_refused")?;
        ensure!(refused == 1.0, "the metric is {refused}");
        Ok(())
    }

    fn expect_one_error(&self, reason: &str) -> anyhow::Result<()> {
        let log = self.last_lines();
        let last_start = log.lines().rev().take_while(|line| !line.contains("starting"));
        let errors: Vec<_> = last_start.filter(|line| line.contains("ERROR")).collect();
        ensure!(errors.len() == 1 && errors[0].contains(reason), "expected one logged error with {reason:?}:\n{log}");
        Ok(())
    }

    /// Copies the store of a stopped or frozen process. The copy is the state after a crash.
    pub(crate) fn copy_store(&self, to: &Path) -> anyhow::Result<()> {
        for name in ["orders.db", "orders.db-wal", "payments.db", "payments.db-wal"] {
            let file = self.file(name);
            if file.exists() {
                fs::copy(&file, to.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
            }
        }
        Ok(())
    }

    /// Returns the command line of a subcommand in the service's directory.
    pub(crate) fn command_of(&self, args: &[&str]) -> Command {
        let mut command = Command::new((self.command)().get_program());
        command.args(args).current_dir(&self.directory);
        command
    }

    /// Runs a subcommand in the service's directory, and returns its exit code and its output.
    pub(crate) fn subcommand(&self, args: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
        let output = self.command_of(args).output()?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Ok((output.status.code(), text))
    }

    /// Waits until a line of the log contains all these words.
    #[expect(clippy::disallowed_methods, reason = "a short pause between two polls")]
    pub(crate) fn wait_for_line(&self, words: &[&str]) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.last_lines().lines().any(|line| words.iter().all(|word| line.contains(word))) {
            if Instant::now() > deadline {
                bail!("no line of the log contains all of {words:?}:\n{}", self.last_lines());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Returns the last 30 lines of the log.
    pub(crate) fn last_lines(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
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

#[expect(clippy::disallowed_methods, reason = "a short pause between two polls")]
pub(crate) fn wait_until_it_listens(process: &mut Child, address: SocketAddr) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() {
        if let Some(status) = process.try_wait()? {
            bail!("the process ended with {status}");
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
