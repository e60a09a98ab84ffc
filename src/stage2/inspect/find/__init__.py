"""Finding roots of tables in memory that nobody explains.

`survey` goes once over all memory, `graph` has what looks like tables and what leads to what, `judge` says how good a
root is and why, `finder` asks all of them.
"""
