#!/bin/sh
# Sees to it that a Docker engine answers, with compose and the base image. Where none runs, it
# installs and starts one, as root on Debian. Exit 75: it cannot be had here, for the reason printed.
#   engine.sh DIRECTORY    keeps its files there; engine.pid is that of an engine that it started
set -eu
directory=$1
base=debian:trixie-slim
cannot() { echo "$*" >&2; exit 75; }
is_debian_root() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && [ -e /etc/debian_version ]; }
mkdir -p "$directory"

# --- the engine
if ! docker info >/dev/null 2>&1; then
  is_debian_root || cannot "no Docker engine answers, and only root on Debian can start one here"
  if ! command -v dockerd >/dev/null; then
    apt-get update -qq || cannot "no Docker engine answers, and apt-get update fails"
    apt-get install -qq --yes --no-install-recommends docker.io debootstrap >/dev/null \
      || cannot "no Docker engine answers, and docker.io cannot be installed"
  fi
  setsid dockerd >"$directory/dockerd.log" 2>&1 </dev/null &
  echo $! >"$directory/engine.pid"
  tries=60
  until docker info >/dev/null 2>&1; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] && kill -0 "$(cat "$directory/engine.pid")" 2>/dev/null \
      || cannot "dockerd does not start: $(tail -n 1 "$directory/dockerd.log")"
    sleep 1
  done
fi

# The Debian mirror that this machine uses itself.
mirror() {
  apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 2>/dev/null \
    | sed -n 's/^Debian|Debian|//p' | head -n 1
}

# --- compose, which Debian has from trixie on
if ! docker compose version >/dev/null 2>&1; then
  is_debian_root || cannot "docker compose is missing"
  [ -n "$(mirror)" ] || apt-get update -qq
  apt=$directory/apt
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$directory/plugin"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) trixie main" \
    >"$apt/sources.list"
  set -- -qq -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o APT::Sandbox::User=root \
    -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache"
  apt-get "$@" update && (cd "$directory/plugin" && apt-get "$@" download docker-compose 2>/dev/null) \
    || cannot "docker compose is missing, and Debian's package cannot be had"
  dpkg -x "$directory"/plugin/docker-compose_*.deb "$directory/plugin"
  plugins=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins
  mkdir -p "$plugins"
  cp "$directory/plugin/usr/libexec/docker/cli-plugins/docker-compose" "$plugins/"
  docker compose version >/dev/null || cannot "docker compose does not run"
fi

# --- the base image: the public one, or one of the same content made here
if ! docker image inspect $base >/dev/null 2>&1 && ! timeout 60 docker pull --quiet $base >/dev/null 2>&1
then
  is_debian_root || cannot "the image $base cannot be pulled"
  command -v debootstrap >/dev/null \
    || apt-get install -qq --yes --no-install-recommends debootstrap >/dev/null
  [ -n "$(mirror)" ] || apt-get update -qq
  debootstrap --variant=minbase trixie "$directory/base" "$(mirror)" >"$directory/debootstrap.log" \
    || cannot "the image $base can neither be pulled nor made: $(tail -n 1 "$directory/debootstrap.log")"
  rm -rf "$directory"/base/var/cache/apt/archives/*.deb "$directory"/base/var/lib/apt/lists/*
  # Registries may answer here with a certificate that only this machine's bundle knows.
  certificates=/etc/ssl/certs/ca-certificates.crt
  mkdir -p "$directory/base/etc/ssl"
  cp -L $certificates "$directory/base/etc/ssl/builder.pem"
  tar -C "$directory/base" -c . | docker import \
    --change "ENV SSL_CERT_FILE=/etc/ssl/builder.pem PIP_CERT=/etc/ssl/builder.pem CARGO_HTTP_CAINFO=/etc/ssl/builder.pem" \
    - $base >/dev/null
  rm -rf "$directory/base"
fi
