"""Read a Hugging Face ``config.json`` as a spec: exactly, or not at all."""
