"""Parts of documents that are written from the code.

Room:      peer.config   (used by the references of settings and of commands)
Loop:      none
Lifetime:  none
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

END = "<!-- end -->"


class Generated(NamedTuple):
    """One part of one document.

    Attributes:
        module: what writes it, as ``python -m`` takes it.
        lines: makes its content.
    """

    module: str
    lines: Callable[[], Iterable[str]]

    @property
    def begin(self) -> str:
        """The marker before it."""
        return f"<!-- begin: written by python -m {self.module} -->"

    def render(self) -> str:
        """Return it, markers included."""
        return "\n".join((self.begin, "", *self.lines(), END))

    def update(self, document: str) -> str:
        """Return a document with this part renewed.

        Raises:
            ValueError: it has no place for it.
        """
        before, begin, rest = document.partition(self.begin)
        _, end, after = rest.partition(END)
        if not (begin and end):
            raise ValueError(f"no '{self.begin}' … '{END}' in the document")
        return before + self.render() + after

    def write(self, path: Path) -> None:
        """Renew this part of a file."""
        path.write_text(self.update(path.read_text(encoding="utf-8")), encoding="utf-8")
