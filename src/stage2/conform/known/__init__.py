"""What each emulator is known to do otherwise than the manual, a file a kind of oracle."""
