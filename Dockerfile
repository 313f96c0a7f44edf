# The image of Walden: one program, certificates, nobody's password.
#
#   docker build --build-arg REVISION="$(git rev-parse HEAD)" \
#       --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" --tag walden .
#
# The program is linked to glibc, so the run-time image is of the same Debian release as the builder or a
# newer one; every other library (zstd, TLS) is inside the program. The same sources, arguments and base
# images give the same program: paths and times of the build are kept out of it.

FROM rust:1.95-slim-bookworm AS build
ARG SOURCE_DATE_EPOCH=0
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} \
    CARGO_INCREMENTAL=0 \
    CARGO_TERM_COLOR=never \
    CFLAGS="-ffile-prefix-map=/usr/local/cargo=/cargo -ffile-prefix-map=/src=/walden" \
    RUSTFLAGS="--remap-path-prefix=/usr/local/cargo=/cargo --remap-path-prefix=/src=/walden"
WORKDIR /src
# rust-toolchain.toml stays outside: the image is the toolchain, without rustfmt and clippy.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY crates crates
RUN cargo build --release --locked --package walden --bin walden \
    && install -D --mode=0755 target/release/walden /image/usr/local/bin/walden \
    && install -D --mode=0644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
    && find /image -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" {} +

FROM debian:bookworm-slim
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="walden" \
      org.opencontainers.image.description="WAL archiving and point-in-time recovery for PostgreSQL" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /image/ /
# Beside a server, run it as that server's user: it reads PGDATA and writes into pg_wal.
USER 65532:65532
WORKDIR /
ENTRYPOINT ["/usr/local/bin/walden"]
CMD ["--help"]
