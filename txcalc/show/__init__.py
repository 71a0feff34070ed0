"""What a reader sees: every answer as blocks, and one writer for each format."""
