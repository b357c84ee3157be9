//! Programs of others that the tests run.

use std::process::Command;

use anyhow::{Context as _, bail};

/// What must be on the machine, and why.
const NEEDED: [(&str, &str, &str); 9] = [
    ("java", "-version", "Java 17 or later runs the broker"),
    ("mvn", "-version", "Maven fetches the broker's jars"),
    ("python3", "--version", "Python 3 runs the reader"),
    ("javac", "-version", "a JDK compiles the reader in Java"),
    ("node", "--version", "Node.js runs the reader in JavaScript"),
    ("npx", "--version", "npm fetches its client, and npx buf for the reader in Go"),
    ("go", "version", "Go compiles the reader in Go"),
    ("perl", "-v", "Perl configures OpenSSL, for the programs to speak TLS with the broker"),
    ("cmake", "--version", "CMake builds librdkafka with it"),
];

/// Says everything that is missing, or nothing.
pub(crate) fn require() -> anyhow::Result<()> {
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|(program, version, _)| Command::new(program).arg(version).output().is_err())
        .map(|(program, _, why)| format!("{program} ({why})"))
        .collect();
    if missing.is_empty() { Ok(()) } else { bail!("missing on this machine: {}", missing.join(", ")) }
}

/// Runs a program to its end; what it printed is part of the error.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{command:?} ended with {}:\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}
