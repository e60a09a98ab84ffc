"""The hypervisor itself: its image and layout, its own tables, its CPUs' storage, its clock and timers."""
