"""`weighbridge bench`: measures the core's decisions, and Envoy with each ext_proc server."""
