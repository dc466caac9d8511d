"""Where replicas come from: one module for each source, and who knows of them when."""
