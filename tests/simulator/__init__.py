"""The simulator's benchmark: policies side by side at several sizes, into docs/benchmarks.md."""
