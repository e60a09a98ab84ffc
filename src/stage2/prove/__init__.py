"""Isolation shown on the tables themselves: theorems about their bytes, proved or refuted on ranges."""
