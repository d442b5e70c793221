"""Pushing a layer's gradients while the backward pass goes on to the layers before it, so that the servers fold meanwhile.

It pays for rules that keep slots (momentum, Adam): what they fold cannot be folded before its push is committed (see
`mpips.server.ahead`). Each push costs a commit on every server, so small layers wait for their neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpips.nn.layer import Grads

if TYPE_CHECKING:
    from mpips.worker import Worker

LEAST = 1 << 20  # bytes of a push before the last one


class Early:
    """One worker's; `take` is what a `mpips.models.Layered` model calls, `end` pushes the rest of a step."""

    def __init__(self, ps: Worker) -> None:
        self._ps = ps
        self._grads: Grads = {}

    def take(self, grads: Grads) -> None:
        """Push these gradients with what has come before, if they are enough; they may not change before the clock."""
        self._grads |= grads
        if sum(gradient.nbytes for gradient in self._grads.values()) >= LEAST:
            self._ps.ipush(self._grads)
            self._grads = {}

    def end(self, more: Grads) -> None:
        """Push what is left, and `more`."""
        grads, self._grads = self._grads | more, {}
        self._ps.push(grads)
