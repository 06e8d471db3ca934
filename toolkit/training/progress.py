"""What a training tells the person who waits for it."""

from __future__ import annotations

from typing import Any, Protocol

from rich.progress import TaskID

from fptk.core.console import log, progress_bar


class Listener(Protocol):
    """Hears of a training's progress; only the first of several processes speaks."""

    def say(self, message: str) -> None:
        """A line of log."""

    def start(self, total_images: int, images: int) -> None:
        """Training goes on at ``images`` of ``total_images``."""

    def step(self, images: int, text: str) -> None:
        """``images`` more were seen; ``text`` describes the state."""

    def validated(self, record: dict[str, Any], best: bool) -> None:
        """A validation has ended with ``record`` (a line of ``metrics.jsonl``)."""

    def stop(self) -> None:
        """Training has ended, well or not."""


class Silent:
    """Says nothing."""

    def say(self, message: str) -> None:
        """Nothing."""

    def start(self, total_images: int, images: int) -> None:
        """Nothing."""

    def step(self, images: int, text: str) -> None:
        """Nothing."""

    def validated(self, record: dict[str, Any], best: bool) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""


class ConsoleListener:
    """Log lines and a progress bar (images, images a second, remaining time) on stderr."""

    def __init__(self) -> None:
        self._progress = progress_bar()
        self._task: TaskID | None = None

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        log.print(message, soft_wrap=True)

    def start(self, total_images: int, images: int) -> None:
        """Show the bar."""
        self._progress.start()
        self._task = self._progress.add_task("training", total=total_images, completed=images)

    def step(self, images: int, text: str) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.update(self._task, advance=images, description=text)

    def validated(self, record: dict[str, Any], best: bool) -> None:
        """Print the scores."""
        self.say(
            f"step {record['step']} · epoch {record['epoch']:.1f} · {record['size']} px · loss {record['loss']:.4f} · "
            f"f1 {record['f1']:.4f} · f1_challenge {record['f1_challenge']:.4f} · mIoU {record['miou']:.4f} · "
            f"{record['images_per_s']:.1f} images/s{' · best' if best else ''}"
        )

    def stop(self) -> None:
        """Remove the bar."""
        self._progress.stop()
