"""A live QEMU as a memory source: by its monitor (QMP), by its gdb stub, or by both.

`live` is what to call. `qmp` and `gdbstub` speak the two protocols, `monitor_text` reads what the monitor prints, and
`readers` are the ways to the bytes, of which `process_memory` is the fast one.
"""
