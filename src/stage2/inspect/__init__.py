"""Looking into memory that others made: sources of physical memory, roots of tables, and questions about them.

`source` says what every memory source can do; everything else asks a source, whatever it is.
"""
