"""Serves the list of replicas to Envoy: CDS and EDS over ADS, state of the world."""
