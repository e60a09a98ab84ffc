"""AArch64 guests on Unicorn: EL1 and EL0 under our walker; we are what EL2 would be."""
