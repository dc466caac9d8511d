"""Measures what a replica's work costs, fits the cost model, and says how far to trust it."""
