"""Weighbridge weighs LLM requests in model units and tells Envoy which replica carries each."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("weighbridge")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"
