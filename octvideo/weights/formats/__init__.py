"""File formats of checkpoints: what the bytes say."""
