"""Keeps count of videos that could not be read, and names each once."""

import logging
from collections.abc import Iterable

logger = logging.getLogger("octvideo")


class BadVideos:
    """The unreadable videos of a run."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def add(self, messages: Iterable[tuple[str, str]]) -> None:
        """Takes (path, reason) pairs, as the loaders deliver them; warns of new ones."""
        for path, reason in messages:
            if path not in self.reasons:
                self.reasons[path] = reason
                logger.warning("Unreadable video %s: %s", path, reason)

    def summarize(self) -> None:
        if self.reasons:
            logger.warning("%d videos could not be read", len(self.reasons))
