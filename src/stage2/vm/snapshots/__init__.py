"""Snapshots of a VM: its memory, what is mapped, its CPUs and devices, taken while it runs and put back."""
