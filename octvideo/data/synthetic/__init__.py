"""Datasets of drawn actions and images."""
