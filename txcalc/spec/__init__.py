"""What a model is: its fields, their defaults and checks, overrides, and the text of files."""
