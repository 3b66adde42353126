"""What the names in a checkpoint mean."""
