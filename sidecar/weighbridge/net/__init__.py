"""What crosses the network: TLS, and JSON over HTTP within bounds."""
