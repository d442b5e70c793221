"""A real sparse matrix that every Python brings: which module of its standard library uses which identifier."""

from __future__ import annotations

import keyword
import re
import sysconfig
from pathlib import Path

import numpy as np

from mpips.train.interactions import Interactions

# Strings and comments match too, so that what is in them is no identifier. (`tokenize` takes 15 s for what this does in two.)
TOKEN = re.compile(r"""
    [rbfuRBFU]{0,2} (?: \"\"\" (?:\\.|[^\\])*? \"\"\" | ''' (?:\\.|[^\\])*? '''
                      | " (?:\\.|[^"\\\n])* " | ' (?:\\.|[^'\\\n])* ' )
    | \#[^\n]*
    | \d\w*
    | ([^\W\d]\w*)
    """, re.X | re.S)
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
NO_NAMES = {"", *keyword.kwlist}


def identifiers(source: str) -> set[str]:
    """Return the identifiers of Python source.

    >>> sorted(identifiers("x = len('no')  # nor this"))
    ['len', 'x']
    """
    return set(TOKEN.findall(source)) - NO_NAMES


def standard_library(directory: str | Path | None = None, *, per_module: int = 20, per_name: int = 5) -> Interactions:
    """Return the modules under a directory (the standard library's) as users and their identifiers as items.

    Args:
        per_module: identifiers that a module has at least.
        per_name: modules that have an identifier at least.
    """
    root = Path(directory or sysconfig.get_paths()["stdlib"])
    files = sorted(file for file in root.rglob("*.py") if LEFT_OUT.isdisjoint(file.relative_to(root).parts))
    found = [sorted(identifiers(file.read_text(encoding="utf-8", errors="replace"))) for file in files]
    modules = np.repeat(np.array([str(file.relative_to(root)) for file in files], dtype=str), [len(names) for names in found])
    names = np.array([name for one in found for name in one], dtype=str)
    return Interactions.of(modules, names, str(root), per_user=per_module, per_item=per_name)
