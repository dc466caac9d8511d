"""Conformance to the endpoint picker protocol, each case citing its clause."""
