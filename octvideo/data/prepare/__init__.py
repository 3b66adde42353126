"""Datasets made from a user's folders and lists."""
