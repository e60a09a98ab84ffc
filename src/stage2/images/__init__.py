"""What goes into a guest's memory before it starts: kernels, ramdisks, device trees; and where to get them."""
