# syntax=docker/dockerfile:1
# The one binary, run by nobody in particular. `docker build .` compiles RocksDB: about ten minutes
# on two cores, once.
FROM rust:1.89.0-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends libclang-dev libssl-dev pkg-config \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release && install -D target/release/homeostat /out/homeostat

FROM debian:12.11-slim
# curl asks the door whether it is ready.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl libssl3 libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home homeostat \
    && install -d -o homeostat -g homeostat /var/lib/homeostat
COPY --from=build /out/homeostat /usr/local/bin/homeostat
USER 10001:10001
WORKDIR /var/lib/homeostat
VOLUME /var/lib/homeostat
ENTRYPOINT ["homeostat"]
CMD ["run"]
