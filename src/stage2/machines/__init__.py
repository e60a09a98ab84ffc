"""Emulated machines as hardware: QEMU and Bochs with our monitors in them, and the mailbox to talk through."""
