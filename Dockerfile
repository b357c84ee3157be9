# One image with both services; the command says which of them runs: `docker run IMAGE order-service`.

# The same Debian as the image below: the glibc that is linked is the glibc that is there.
FROM rust:1.95-slim-bookworm AS build
# librdkafka (cmake, g++), OpenSSL (perl, make) and curl are compiled from source.
# Debian keeps only the newest version of a package, so a pinned one soon could not be installed:
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake g++ make perl \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# `touch`: Cargo tells a changed source by its time alone, and COPY may leave it older than what is in the cache.
# Dependencies are told by their version and stay compiled. `locked`: two builds at once would use the same files.
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
# It has to be there, with its owner: a new named volume takes both from it.
COPY --from=build --chown=65532:65532 /out/data /data
# This is `nonroot`; of a name, Kubernetes' runAsNonRoot cannot tell that it is not root.
USER 65532:65532
WORKDIR /data
EXPOSE 3001 3002
STOPSIGNAL SIGTERM
