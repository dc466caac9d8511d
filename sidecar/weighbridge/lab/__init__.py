"""What one machine runs to try things: demo, emulator, traffic, simulator, benchmarks."""
