"""Kubernetes manifests, mesh fragments and dashboards, checked without a cluster."""
