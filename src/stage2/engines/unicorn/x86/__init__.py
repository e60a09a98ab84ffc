"""x86-64 guests on Unicorn: rings 0 to 3 in long mode under our walker; we are what VMX root mode would be."""
