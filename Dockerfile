# One image with both services. The command selects the one to run: `docker run IMAGE order-service`.

# The same Debian release as the image below, so that the programs are linked with the glibc that they run with.
FROM rust:1.95-slim-bookworm AS build
# librdkafka (cmake, g++), OpenSSL (perl, make) and curl are compiled from source.
# Versions are not pinned: Debian keeps only the newest one, so a pinned version could soon not be installed.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake g++ make perl \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# `touch`: Cargo detects a changed source only by its time, and COPY may leave it older than the files in the cache.
# Dependencies are detected by their version and stay compiled. `locked`: two parallel builds would use the same files.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,id=event-sourcing,target=/src/target,sharing=locked \
    find . -path ./target -prune -o -type f -exec touch {} + \
    && cargo build --release --locked -p order-service -p payment-service \
        --features order-service/kafka-tls,payment-service/kafka-tls \
    && mkdir -p /out/data \
    && cp target/release/order-service target/release/payment-service /out/

# glibc, libgcc, libstdc++ and CA certificates; no shell.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/order-service /out/payment-service /usr/local/bin/
# The directory has to exist: a new named volume copies its owner and content.
COPY --from=build --chown=65532:65532 /out/data /data
# The user `nonroot`, as a number: Kubernetes' runAsNonRoot cannot check a user name.
USER 65532:65532
WORKDIR /data
EXPOSE 3001 3002
STOPSIGNAL SIGTERM
