"""The host's own access to a guest's memory, by GPA and by GVA."""
