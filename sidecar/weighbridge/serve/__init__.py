"""The sidecar as it runs: its loops, reloads, and transports."""
