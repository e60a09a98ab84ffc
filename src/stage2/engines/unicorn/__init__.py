"""Unicorn as the embedded CPU, with our compiled two-stage walker as its MMU.

The library's private parts are all in `abi`. Nothing here is imported before a guest is run.
"""
