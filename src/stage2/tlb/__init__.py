"""What TLBs may hold: the model of one, identifiers given out and taken back, shootdown, and the checker of edits."""
