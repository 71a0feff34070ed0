"""The description of a model: its fields, their defaults and checks, overrides, and the text of files."""
