"""The command ``octvideo`` and its subcommands; the scripts in tools/ call them by older names."""
