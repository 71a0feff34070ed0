"""Every model in plain PyTorch, by hand from the spec: it never sees what it checks."""
