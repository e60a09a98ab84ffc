"""Conformance: MMUs nobody here wrote are asked the same as our walker, on the same table bytes."""
