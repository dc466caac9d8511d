"""The arena: ours and what users would otherwise run, live, on the same emulated replicas."""
