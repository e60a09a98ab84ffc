"""How fast it is: `make bench`, see docs/benchmarks.md."""

from stage2.tables.compiled import compile_at_once

# With an empty kernel cache small work would be measured as the plain Python that it then runs as.
compile_at_once()
