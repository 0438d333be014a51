"""A progress bar.

Runs in the caller's process. Imports the standard library alone.
"""

from __future__ import annotations

import sys
import time


class Progress:
    """A progress bar on stderr, redrawn at most ten times a second."""

    def __init__(self, label: str, total: int):
        self.label, self.total = label, total
        self.begin = self.drawn = time.monotonic()

    def update(self, done: int) -> None:
        now = time.monotonic()
        if now - self.drawn < 0.1 and done < self.total:
            return
        self.drawn = now
        bar = "#" * (30 * done // max(1, self.total))
        end = "\n" if done == self.total else ""
        rate = done / max(now - self.begin, 1e-9)
        print(
            f"\r{self.label} [{bar:30}] {done}/{self.total} {rate:.0f}/s",
            end=end,
            file=sys.stderr,
            flush=True,
        )
