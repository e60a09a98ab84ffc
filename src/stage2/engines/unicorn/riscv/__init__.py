"""RISC-V guests on Unicorn: S-mode and U-mode under our walker; we are what M-mode and HS-mode would be."""
