"""The processes of a run: how they start, meet, exchange values, stop, and exclude a second run."""
