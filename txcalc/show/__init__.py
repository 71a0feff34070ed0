"""Answers as blocks for a reader, and one writer for each format."""
