//! Starts Kafka (KRaft) from its jars, with one broker or three.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::Context as _;

use crate::{log_cutter::PartitionFiles, proxy::Proxy, services, tools};

/// Downloads the jars unless they are there, and returns their directory.
pub(crate) fn jars(kept: &Path) -> anyhow::Result<PathBuf> {
    let directory = kept.join("kafka-jars");
    if !directory.join("complete").exists() {
        let pom = Path::new(env!("CARGO_MANIFEST_DIR")).join("kafka/pom.xml");
        tools::run(
            Command::new("mvn")
                .args(["-q", "-B", "dependency:copy-dependencies", "-f"])
                .arg(pom)
                .arg(format!("-DoutputDirectory={}", directory.display())),
        )?;
        File::create(directory.join("complete"))?;
    }
    Ok(directory)
}

/// A running broker. Killed when dropped.
pub(crate) struct Kafka {
    jars: PathBuf,
    directory: PathBuf,
    address: SocketAddr,
    process: Child,
}

impl Kafka {
    pub(crate) fn start(jars: &Path, directory: &Path) -> anyhow::Result<Self> {
        let address = free_address()?;
        Self::start_advertised(jars, directory, address, address)
    }

    /// Starts a broker that clients reach only through the proxy.
    pub(crate) fn start_behind_a_proxy(jars: &Path, directory: &Path) -> anyhow::Result<(Self, Proxy)> {
        let address = free_address()?;
        let proxy = Proxy::start(address)?;
        Ok((Self::start_advertised(jars, directory, address, proxy.address())?, proxy))
    }

    /// Starts a broker with a second listener: TLS with `broker.pem` of the directory, SCRAM or OAUTHBEARER, and access
    /// control. On the first listener every client has all permissions.
    pub(crate) fn start_secured(jars: &Path, directory: &Path) -> anyhow::Result<(Self, String)> {
        let (address, secure) = (free_address()?, free_address()?.to_string());
        let besides = secured(&secure);
        let node = Node { number: 0, address, advertised: address, controllers: &[free_address()?], besides: &besides };
        Ok((Self::start_with(jars, directory, &node)?, secure))
    }

    fn start_advertised(
        jars: &Path,
        directory: &Path,
        address: SocketAddr,
        advertised: SocketAddr,
    ) -> anyhow::Result<Self> {
        let node =
            Node { number: 0, address, advertised, controllers: &[free_address()?], besides: &Listener::default() };
        Self::start_with(jars, directory, &node)
    }

    fn start_with(jars: &Path, directory: &Path, node: &Node<'_>) -> anyhow::Result<Self> {
        let mut kafka = Self::launch(jars, directory, node)?;
        kafka.wait_until_up()?;
        Ok(kafka)
    }

    /// Starts the process without waiting until the broker is up, because it may need the other brokers for that.
    fn launch(jars: &Path, directory: &Path, node: &Node<'_>) -> anyhow::Result<Self> {
        fs::write(directory.join("server.properties"), node.properties(directory))?;
        // A cluster id has 22 characters, and each cluster has its own.
        let cluster = format!("MkU3OEVBNTcwNTJE{:05}g", node.controllers[0].port());
        tools::run(java(jars, directory).args([
            "kafka.tools.StorageTool",
            "format",
            "-t",
            &cluster,
            "-c",
            "server.properties",
        ]))?;
        let process = spawn(jars, directory)?;
        Ok(Self { jars: jars.to_owned(), directory: directory.to_owned(), address: node.address, process })
    }

    fn wait_until_up(&mut self) -> anyhow::Result<()> {
        services::wait_until_it_listens(&mut self.process, self.address).context("the broker does not start")
    }

    pub(crate) fn set_topic(&self, name: &str, setting: &str) -> anyhow::Result<()> {
        let args = ["--alter", "--entity-type", "topics", "--entity-name", name, "--add-config", setting];
        self.tool("kafka.admin.ConfigCommand", &args)
    }

    pub(crate) fn add_partitions(&self, name: &str, count: u32) -> anyhow::Result<()> {
        let args = ["--alter", "--topic", name, "--partitions", &count.to_string()];
        self.tool("org.apache.kafka.tools.TopicCommand", &args)
    }

    pub(crate) fn delete_topic(&self, name: &str) -> anyhow::Result<()> {
        self.tool("org.apache.kafka.tools.TopicCommand", &["--delete", "--topic", name])
    }

    pub(crate) fn add_user(&self, name: &str, password: &str) -> anyhow::Result<()> {
        let secret = format!("SCRAM-SHA-512=[password={password}]");
        let args = ["--alter", "--entity-type", "users", "--entity-name", name, "--add-config", &secret];
        self.tool("kafka.admin.ConfigCommand", &args)
    }

    /// Grants a user operations on a resource. A name that ends with `-` is a prefix.
    pub(crate) fn grant(&self, user: &str, resource: &str, name: &str, operations: &[&str]) -> anyhow::Result<()> {
        let principal = format!("User:{user}");
        let pattern = if name.ends_with('-') { "prefixed" } else { "literal" };
        let mut args =
            vec!["--add", "--allow-principal", &principal, "--resource-pattern-type", pattern, resource, name];
        args.extend(operations.iter().flat_map(|operation| ["--operation", operation]));
        self.tool("org.apache.kafka.tools.AclCommand", &args)
    }

    fn tool(&self, class: &str, args: &[&str]) -> anyhow::Result<()> {
        let broker = self.address();
        let mut command = java(&self.jars, &self.directory);
        tools::run(command.args([class, "--bootstrap-server", &broker]).args(args)).map(drop)
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Creates a topic with one partition.
    pub(crate) fn create_topic(&self, name: &str) -> anyhow::Result<()> {
        let args = ["--create", "--partitions", "1", "--topic", name];
        self.tool("org.apache.kafka.tools.TopicCommand", &args)
    }

    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        services::signal(&self.process, "-TERM")?;
        self.start_again()
    }

    /// Kills the broker, and starts it again after the given time.
    #[expect(clippy::disallowed_methods, reason = "the outage")]
    pub(crate) fn kill_and_start(&mut self, after: Duration) -> anyhow::Result<()> {
        self.process.kill()?;
        thread::sleep(after);
        self.start_again()
    }

    /// Kills the broker, and waits until it has ended.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Shuts the broker down cleanly, and waits until it has ended.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        services::signal(&self.process, "-TERM")?;
        self.process.wait()?;
        Ok(())
    }

    /// Returns the files of a partition. They may be used while the broker is down.
    pub(crate) fn files_of(&self, topic: &str, partition: i32) -> PartitionFiles {
        PartitionFiles::new(&self.directory.join("kafka"), topic, partition)
    }

    pub(crate) fn start_again(&mut self) -> anyhow::Result<()> {
        self.launch_again()?;
        self.wait_until_up()
    }

    fn launch_again(&mut self) -> anyhow::Result<()> {
        self.process.wait()?;
        self.process = spawn(&self.jars, &self.directory)?;
        Ok(())
    }
}

/// Three brokers, each behind its own proxy. The brokers reach each other without a proxy.
pub(crate) struct Cluster {
    pub(crate) brokers: Vec<Kafka>,
    pub(crate) proxies: Vec<Proxy>,
}

impl Cluster {
    pub(crate) const SIZE: usize = 3;

    pub(crate) fn start(jars: &Path, directory: &Path) -> anyhow::Result<Self> {
        let addresses = || (0..Self::SIZE).map(|_| free_address()).collect::<anyhow::Result<Vec<_>>>();
        let (clients, internal, controllers) = (addresses()?, addresses()?, addresses()?);
        let mut cluster = Self { brokers: Vec::new(), proxies: Vec::new() };
        for number in 0..Self::SIZE {
            let home = directory.join(format!("broker-{number}"));
            fs::create_dir(&home)?;
            let proxy = Proxy::start(clients[number])?;
            let besides = Listener {
                listener: format!(",INTERNAL://{}", internal[number]),
                protocol: ",INTERNAL:PLAINTEXT".to_owned(),
                more: "inter.broker.listener.name=INTERNAL\n".to_owned(),
            };
            let node = Node {
                number,
                address: clients[number],
                advertised: proxy.address(),
                controllers: &controllers,
                besides: &besides,
            };
            cluster.brokers.push(Kafka::launch(jars, &home, &node)?);
            cluster.proxies.push(proxy);
        }
        cluster.brokers.iter_mut().try_for_each(Kafka::wait_until_up)?;
        Ok(cluster)
    }

    /// Returns the addresses of all proxies, for clients.
    pub(crate) fn address(&self) -> String {
        self.proxies.iter().map(|proxy| proxy.address().to_string()).collect::<Vec<_>>().join(",")
    }

    /// Kills all brokers at once, and starts them again.
    pub(crate) fn kill_all_and_start(&mut self) -> anyhow::Result<()> {
        self.brokers.iter_mut().try_for_each(|broker| broker.process.kill())?;
        self.brokers.iter_mut().try_for_each(Kafka::launch_again)?;
        self.brokers.iter_mut().try_for_each(Kafka::wait_until_up)
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn java(jars: &Path, directory: &Path) -> Command {
    let mut command = Command::new("java");
    command.current_dir(directory).args(["-Xmx512m", "-cp"]).arg(jars.join("*"));
    command
}

fn spawn(jars: &Path, directory: &Path) -> anyhow::Result<Child> {
    let log = File::options().create(true).append(true).open(directory.join("kafka.log"))?;
    let mut command = java(jars, directory);
    command.args(["kafka.Kafka", "server.properties"]).stdout(log.try_clone()?).stderr(log).stdin(Stdio::null());
    command.spawn().context("cannot start the broker")
}

/// One broker of a cluster, which is also a controller.
struct Node<'a> {
    number: usize,
    address: SocketAddr,
    advertised: SocketAddr,
    /// The controllers' addresses of all nodes.
    controllers: &'a [SocketAddr],
    besides: &'a Listener,
}

/// Settings of an additional listener.
#[derive(Default)]
struct Listener {
    /// Appended to `listeners`: `,NAME://address`
    listener: String,
    /// Appended to `listener.security.protocol.map`: `,NAME:PROTOCOL`
    protocol: String,
    /// Further lines of the properties file.
    more: String,
}

fn secured(address: &str) -> Listener {
    Listener {
        listener: format!(",SECURE://{address}"),
        protocol: ",SECURE:SASL_SSL".to_owned(),
        more: "\
inter.broker.listener.name=PLAINTEXT
listener.name.secure.ssl.keystore.type=PEM
listener.name.secure.ssl.keystore.location=broker.pem
listener.name.secure.sasl.enabled.mechanisms=SCRAM-SHA-512,OAUTHBEARER
listener.name.secure.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secure.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"
        .to_owned(),
    }
}

impl Node<'_> {
    fn properties(&self, directory: &Path) -> String {
        let Self { number, address, advertised, controllers, besides: Listener { listener, protocol, more } } = self;
        let voters: Vec<_> = (1..).zip(*controllers).map(|(id, controller)| format!("{id}@{controller}")).collect();
        let (id, voters, controller) = (number + 1, voters.join(","), controllers[*number]);
        let copies = controllers.len();
        let needed = copies / 2 + 1;
        let directory = directory.display();
        format!(
            "\
process.roles=broker,controller
node.id={id}
controller.quorum.voters={voters}
listeners=PLAINTEXT://{address},CONTROLLER://{controller}{listener}
advertised.listeners=PLAINTEXT://{advertised}{listener}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT{protocol}
{more}log.dirs={directory}/kafka
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions=8
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={needed}
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={needed}
auto.create.topics.enable=false
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
"
        )
    }
}
