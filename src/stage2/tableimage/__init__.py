"""The stage-2 tables of VMs as files: raw bytes, an ELF object, a C header and a manifest, written and read back."""
