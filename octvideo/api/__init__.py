"""What ``import octvideo`` gives: models with weights, predictions, features."""
