"""What a model is: its fields, their defaults and checks, presets, files, overrides, importers."""
