"""Envoy's configuration from typed messages, and the Envoy binary that checks and runs it."""
