# docker build -t tidemill .
FROM rust:1.95-slim-bookworm AS build
# librdkafka is built by configure and make, the rest of the C by cc.
RUN apt-get update && apt-get install -y --no-install-recommends build-essential pkg-config \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked && strip target/release/tidemill

FROM debian:bookworm-slim
RUN useradd --create-home tidemill
COPY --from=build /src/target/release/tidemill /usr/local/bin/
COPY --from=build /src/LICENSE /usr/share/doc/tidemill/
COPY sql /sql
USER tidemill
WORKDIR /home/tidemill
ENTRYPOINT ["tidemill"]
