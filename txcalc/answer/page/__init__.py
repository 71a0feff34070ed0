"""Pages: HTML of every answer."""
