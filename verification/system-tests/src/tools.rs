//! Runs the external programs that the tests need.

use std::process::Command;

use anyhow::{Context as _, bail};

/// The required programs, the argument that prints their version, and the reason.
const NEEDED: [(&str, &str, &str); 9] = [
    ("java", "-version", "Java 17 or later runs the broker"),
    ("mvn", "-version", "Maven downloads the broker's jars"),
    ("python3", "--version", "Python 3 runs the reader"),
    ("javac", "-version", "a JDK compiles the reader in Java"),
    ("node", "--version", "Node.js runs the reader in JavaScript"),
    ("npx", "--version", "npm downloads its client, and npx runs buf for the reader in Go"),
    ("go", "version", "Go compiles the reader in Go"),
    ("perl", "-v", "Perl configures OpenSSL, which the programs need for TLS"),
    ("cmake", "--version", "CMake builds librdkafka with OpenSSL"),
];

/// Returns an error that names all missing programs.
pub(crate) fn require() -> anyhow::Result<()> {
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|(program, version, _)| Command::new(program).arg(version).output().is_err())
        .map(|(program, _, why)| format!("{program} ({why})"))
        .collect();
    if missing.is_empty() { Ok(()) } else { bail!("missing on this machine: {}", missing.join(", ")) }
}

/// Runs a program and returns its standard output. An error contains all of its output.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{command:?} ended with {}:\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}
