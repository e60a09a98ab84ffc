"""How fast it is: `make bench`, see docs/benchmarks.md."""
