"""The proof: live PyTorch, other libraries' classes, checkpoints and published figures beside the counts."""
