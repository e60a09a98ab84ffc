"""Guests' memory beside the host's as a picture: what is drawn, where it stands, and the file."""
