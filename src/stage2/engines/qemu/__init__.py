"""The engine that runs guests on QEMU, whose emulated MMU walks our tables."""
