"""What scripts share: an options parser whose errors are UsageErrors, to be told by `mpips.train.start.script`."""

from __future__ import annotations

import argparse
import math
from typing import NoReturn

from mpips import optim
from mpips.errors import UsageError


class Options(argparse.ArgumentParser):
    """argparse whose errors are UsageErrors; `whole`, `real` and `add_training` add options that many scripts have."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{self.prog}: {message}")

    def whole(self, name: str, value: int, text: str, *, least: int = 1) -> None:
        """Add an option that is a whole number from `least`."""

        def check(given: str) -> int:
            if not given.isdecimal() or int(given) < least:
                raise argparse.ArgumentTypeError(f"{given!r} is not a whole number from {least}")
            return int(given)

        self.add_argument(name, type=check, default=value, metavar="N", help=f"{text} ({value})")

    def real(self, name: str, value: float, text: str) -> None:
        """Add an option that is a number from 0."""

        def check(given: str) -> float:
            try:
                number = float(given)
            except ValueError:
                number = -1.0
            if not 0 <= number < math.inf:
                raise argparse.ArgumentTypeError(f"{given!r} is not a number from 0 below inf")
            return number

        self.add_argument(name, type=check, default=value, metavar="X", help=f"{text} ({value:g})")

    def add_training(self, *, optimizer: str, lr: float) -> None:
        """Add what every training has: optimizer, lr, staleness, servers, seed, checkpoint and every."""
        self.add_argument("--optimizer", choices=sorted(optim.OPTIMIZERS), default=optimizer, help=f"({optimizer})")
        self.real("--lr", lr, "learning rate")
        self.add_argument("--staleness", type=_staleness, default=0, metavar="N|none",
                          help="how many steps workers may be apart; none: each at its own pace (0)")
        self.whole("--servers", 1, "server ranks")
        self.whole("--seed", 0, "of the initial values and all that is drawn", least=0)
        self.add_argument("--checkpoint", metavar="DIR", help="keep checkpoints there, and go on from the newest one")
        self.whole("--every", 200, "steps between two checkpoints")


def _staleness(given: str) -> int | None:
    if given == "none":
        return None
    if not given.isdecimal():
        raise argparse.ArgumentTypeError(f"{given!r} is neither none nor a whole number from 0")
    return int(given)
