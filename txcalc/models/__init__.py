"""Models by name: presets, files, answers and the Hugging Face hub, and one way to load what they hold."""
