"""Text: tables, Markdown, CSV, JSON, YAML and charts of every answer."""
