"""What the bytes of a checkpoint say."""
