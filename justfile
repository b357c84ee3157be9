# Short names for common commands, for https://just.systems. No recipe is needed: each line also works in a shell.

[private]
default:
    @just --list --unsorted

# Check everything that CI checks (about 20 minutes on 2 cores)
check:
    .ci/run

# Start both services with an embedded Kafka broker
run *ARGS:
    cargo run --locked -- {{ ARGS }}

# Run the tests that need only Rust, gcc, g++ and make
test *ARGS:
    cargo test --workspace --locked {{ ARGS }}

# Lint the code, the dependencies and the links in the documentation
lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings
    .ci/deny
    .ci/links

# Format the code
fmt:
    cargo fmt --all

# Build the documentation of the code, and open it
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --open

# Run the system tests on a real Kafka broker, e.g. `just system-tests --only audit`
system-tests *ARGS:
    cargo run --locked -p system-tests -- {{ ARGS }}

# Inject random faults; run N repeats with seed SEED + N - 1
chaos RUNS="10" SEED="1":
    cargo run --release --locked -p system-tests -- --only chaos --runs {{ RUNS }} --seed {{ SEED }}

# Run the longer checks, before a release
long:
    .ci/long
