"""Engines that execute guests on our tables, a folder each."""
