"""What kernels, hypervisors, firmware and emulators print when memory goes wrong, read as registers and told."""
