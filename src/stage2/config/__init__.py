"""Configuration files: AxVisor's TOML of both generations, platform files, and our own tables."""
