"""Video files: their packets, time stamps and frames."""
