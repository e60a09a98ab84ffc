"""A hypervisor's memory: build it, run it, see it, prove it."""
