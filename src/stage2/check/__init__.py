"""Findings: what is wrong, or odd, in files that load; a rule is a function with its code, text and example."""
