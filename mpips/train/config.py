"""What a training is: the keys of a TOML file and the keywords of `mpips.fit`, with their types, ranges and defaults.

An unknown key, a wrong type or a value out of range is one line that names the file and the key's path. The sections
[model], [optimizer] and [data] have a `name` (or `source`) and options of their own; whoever makes them checks those.
"""

from __future__ import annotations

import codecs
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec
import numpy as np
from msgspec import Meta

from mpips.errors import UsageError

Staleness = Annotated[int, Meta(ge=0)] | Literal["none", "asp"] | None
Count = Annotated[int, Meta(ge=1)]
T = TypeVar("T")

SHORT = {"model": "name", "optimizer": "name", "data": "source", "checkpoint": "directory"}  # as in model = "mlp"


class Named(msgspec.Struct, frozen=True):
    """Something that is made by name: `[model] name = "mlp"` with all other keys of the section as its options."""

    name: str
    options: dict[str, Any] = {}


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[tables.NAME]`: what one table has different from the others."""

    staleness: Staleness | msgspec.UnsetType = msgspec.UNSET
    combine: Literal["sum", "mean"] | msgspec.UnsetType = msgspec.UNSET
    nonfinite: Literal["raise", "skip", "allow"] | msgspec.UnsetType = msgspec.UNSET
    optimizer: Named | msgspec.UnsetType = msgspec.UNSET


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[checkpoint]`: where, how often, how many, and what to start from."""

    directory: str
    every: Count | None = None  # clocks; None: only at the end
    keep_last: Count | None = 3
    at_end: bool = True
    resume: str | None = None  # "latest", "auto" or a path


INSIDE = {"lr": "optimizer", "momentum": "optimizer", "weight_decay": "optimizer", "clip": "optimizer",  # often written outside
          "hidden": "model", "activation": "model", "path": "data", "test_fraction": "data", "standardize": "data",
          **dict.fromkeys(Checkpoint.__struct_fields__, "checkpoint")}


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training, checked.

    Args:
        data: `source` and its options, see `mpips.train.data`.
        model: `name` and its options, see `mpips.models`.
        optimizer: `name`, `lr` (a number or a schedule's table) and its options, see `mpips.optim`.
        tables: by name, what a table has different from the rest: `[tables."out.w"]` with `staleness`, `combine`, `nonfinite`
            or an `optimizer`. The model's page has the names: `mpips.models.MLP`, `mpips.models.Linear`.
        servers: a number of ranks, "per-node", or [n, "first"].
        readers: ranks that only evaluate.
        staleness: 0 is BSP, n is SSP, "none" or "asp" is ASP.
        combine: "mean" or "sum" of the workers' gradients, see `mpips.Dense`.
        combine_on: "node" lets the workers of a node add up their gradients before one pushes the sum, see `mpips.run`.
        dtype: of the tables.
        epochs: passes over the training samples, those before a resume included, whatever the batch and the workers were then
            (but a schedule of the learning rate counts clocks).
        batch: samples of one worker's step.
        evaluate: "worker" (worker 0, between its steps) or "reader" (while training goes on); None is whoever is there.
            The last evaluation, after the last step, is always worker 0's.
        eval_every: clocks between worker 0's evaluations, None for one an epoch.
        log_every: clocks between two lines of metrics, None for one an epoch.
        clip_norm: each worker's gradient is scaled down to this Euclidean norm (before the push).
        nonfinite: "raise" on NaN or Inf in a gradient, "skip" that push and count it, or "allow": do not look.
        checkpoint: `directory`, and `every`, `keep_last`, `at_end` and `resume`, see `mpips.Checkpoints`.
        log: directory of `metrics.jsonl` and of the ranks' log files; None is `log` in the checkpoint's directory,
            or no files at all.
        trace: file that shows what every rank did when, see `mpips.trace`.
        mailboxes: bytes that all workers' mailboxes may take on one server before they become rings, see `mpips.run`.
        seed: of the initial values and of the order of the samples; within an epoch a resume needs the same.
        device: "auto", "cpu" or "gpu".
        timeout: seconds after which any wait says who waits for whom and ends the job.
    """

    data: Named = Named("digits")
    model: Named = Named("mlp")
    optimizer: Named = Named("sgd", {"lr": 0.1})
    tables: dict[str, Table] = {}
    servers: int | str | list[int | str] = 1
    readers: Annotated[int, Meta(ge=0)] = 0
    staleness: Staleness = 0
    combine: Literal["sum", "mean"] = "mean"
    combine_on: Literal["node"] | None = None
    dtype: Literal["float32", "float64", "float16", "bfloat16"] = "float32"
    epochs: Count = 10
    batch: Count = 32
    evaluate: Literal["worker", "reader"] | None = None
    eval_every: Count | None = None
    log_every: Count | None = None
    clip_norm: Annotated[float, Meta(gt=0)] | None = None
    nonfinite: Literal["raise", "skip", "allow"] = "raise"
    checkpoint: Checkpoint | None = None
    log: str | None = None
    trace: str | None = None
    mailboxes: Count | None = None
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0
    device: Literal["auto", "cpu", "gpu"] = "auto"
    timeout: Annotated[float, Meta(gt=0)] = 300.0

    @property
    def server_ranks(self) -> int | str | tuple[int, str]:
        """The servers as `mpips.run` takes them."""
        if isinstance(self.servers, list):
            return int(self.servers[0]), str(self.servers[1])
        return self.servers

    @property
    def log_directory(self) -> Path | None:
        """Where the log files go, if anywhere."""
        if self.log is not None:
            return Path(self.log)
        return Path(self.checkpoint.directory) / "log" if self.checkpoint else None


def bound(staleness: int | str | None) -> int | None:
    """Return the staleness as a table takes it: "none" and "asp" are None."""
    return staleness if isinstance(staleness, int) else None


def load(path: str | Path, settings: Iterable[str] = ()) -> Config:
    """Read a TOML file, apply `key=value` settings over it, check all of it.

    Raises:
        UsageError: the file cannot be read, is not TOML, or has a key or a value that is wrong.
    """
    try:
        raw = msgspec.toml.decode(Path(path).read_bytes().removeprefix(codecs.BOM_UTF8))  # some editors write it
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {_line(error)}") from None
    checked = parse(raw, str(path))  # the file first, so that what is wrong in it is not blamed on a setting
    settings = list(settings)
    for text in settings:
        override(raw, text)
    return parse(raw, f"{path} with --set {' '.join(settings)}") if settings else checked


def parse(raw: Mapping[str, Any], where: str = "fit") -> Config:
    """Return the configuration that `raw` (as TOML gives it) stands for; `where` begins every error's line."""
    sections = {key: _section(key, value) for key, value in _finite(raw, where).items()}
    for key in ("data", "model", "optimizer"):
        if key in sections:
            sections[key] = _named(sections[key], SHORT[key], key, where)
    if isinstance(sections.get("checkpoint"), Mapping):
        sections["checkpoint"] = convert(sections["checkpoint"], Checkpoint, where, "checkpoint.")
    if isinstance(sections.get("tables"), Mapping):
        sections["tables"] = {name: _table(name, value, where) for name, value in sections["tables"].items()}
    config = convert(sections, Config, where)
    _servers(config.servers, where)
    if config.log == "":
        raise UsageError(f"{where}: log: '' is not a path")
    return config


def convert(raw: Mapping[str, Any], kind: type[T], where: str, prefix: str = "") -> T:
    """Check `raw` against a msgspec struct; errors name `where` and the path of the key under `prefix`."""
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}  # type: ignore[arg-type]
    for key in raw:
        if key not in fields:
            inside = INSIDE.get(key) if kind is Config else None
            raise UsageError(f"{where}: {prefix}{key}: unknown key; "
                             + (f"did you mean '{inside}.{key}'?" if inside else nearest(str(key), fields)))
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        text, _, at = _line(error).partition(" - at ")
        path = re.sub(r"^`\$\.?|`$", "", at)
        text = text.replace("Expected", "expected").replace("`", "")
        if missing := re.match(r"Object missing required field (\w+)", text):
            path, text = missing[1], "is required"
        if wrong := re.match(r"Invalid enum value (.*)", text):
            words = ", ".join(map(repr, _choices(fields.get(path))))
            text = f"{wrong[1]} is not one of {words}" + (", nor a number" if int in _leaves(fields.get(path)) else "")
        raise UsageError(f"{where}: {prefix}{path}: {text}") from None


def override(raw: dict[str, Any], text: str) -> None:
    """Change `raw` by one `a.b=value`; the value is TOML if it can be read as such, else a string."""
    key, equals, value = text.partition("=")
    try:
        path = _path(msgspec.toml.decode(f"{key} = 0"))
    except msgspec.DecodeError:
        path = []
    if not equals or not path:
        raise UsageError(f"--set {text!r}: expected key=value, such as optimizer.lr=0.1")
    try:
        parsed = msgspec.toml.decode(f"value = {value}")
        new = parsed["value"] if len(parsed) == 1 else value
    except msgspec.DecodeError:
        new = value
    at = raw
    for depth, name in enumerate(path[:-1]):
        inner = at.get(name, {})
        if isinstance(inner, str) and depth == 0 and name in SHORT:
            inner = {SHORT[name]: inner}
        if not isinstance(inner, dict):
            raise UsageError(f"--set {text!r}: {'.'.join(path[:depth + 1])} is not a section")
        at[name] = inner = dict(inner)
        at = inner
    at[path[-1]] = new


def nearest(word: str, known: Iterable[str]) -> str:
    """Return what to say after an unknown word: the nearest known one, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, 1, 0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


def plain(config: Config) -> dict[str, Any]:
    """Return the configuration as JSON values."""
    out: dict[str, Any] = msgspec.to_builtins(config)
    return out


def _section(key: str, value: Any) -> Any:
    """Spell `model = "mlp"` as the section it is short for."""
    return {SHORT[key]: value} if key in SHORT and isinstance(value, str) else value


def _named(section: Any, label: str, key: str, where: str) -> dict[str, Any]:
    """Take the name out of a section of free options."""
    if not isinstance(section, Mapping):
        raise UsageError(f"{where}: {key}: expected a section with {label!r}, got {type(section).__name__}")
    options = dict(section)
    name = options.pop(label, None)
    if not isinstance(name, str):
        raise UsageError(f"{where}: {key}.{label}: " + ("is required" if name is None else
                                                       f"expected str, got {type(name).__name__}"))
    return {"name": name, "options": options}


def _table(name: str, section: Any, where: str) -> Table:
    """Return one table's section; its optimizer may be a name or a section."""
    path = f"tables.{name}"
    if not isinstance(section, Mapping):
        raise UsageError(f"{where}: {path}: expected a section, got {type(section).__name__}")
    if "optimizer" in section:
        inner = _section("optimizer", section["optimizer"])
        section = {**section, "optimizer": _named(inner, "name", f"{path}.optimizer", where)}
    return convert(section, Table, where, f"{path}.")


def _choices(kind: Any) -> list[str]:
    """Return the words that a type allows."""
    if get_origin(kind) is Literal:
        return [str(word) for word in get_args(kind)]
    return [word for inner in get_args(kind) if get_origin(inner) for word in _choices(inner)]


def _leaves(kind: Any) -> set[Any]:
    """Return the types that a union or an annotated type is made of."""
    return set().union(*map(_leaves, get_args(kind))) if get_origin(kind) not in (None, Literal) else {kind}


def _servers(servers: int | str | list[int | str], where: str) -> None:
    """Raise unless `servers` has one of its three forms.

    Not left to msgspec: for a fixed-length tuple in a union, version 0.22 crashes while it writes the error's text.
    """
    if isinstance(servers, list):
        ok = len(servers) == 2 and isinstance(servers[0], int) and servers[0] >= 1 and servers[1] == "first"
    else:
        ok = servers == "per-node" or (isinstance(servers, int) and servers >= 1)
    if not ok:
        raise UsageError(f'{where}: servers: expected a number from 1, "per-node" or [n, "first"], got {servers!r}')


def _finite(value: Any, where: str, path: str = "") -> Any:
    """Return `value` with Python's numbers in place of NumPy's, at any depth.

    Raise for NaN and infinities, which TOML has: no key takes them, and no checkpoint could keep them.
    """
    def inner(key: Any, one: Any) -> Any:
        return _finite(one, where, f"{path}.{key}" if path else str(key))

    if isinstance(value, Mapping):
        return {key: inner(key, one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        some = [inner(at, one) for at, one in enumerate(value)]
        return tuple(some) if isinstance(value, tuple) else some
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where}: {path}: {value} is not a finite number")
    return value


def _path(nested: Mapping[str, Any]) -> list[str]:
    """Return the keys on the way down a mapping that has one key on each level."""
    if len(nested) != 1:
        return []
    ((key, value),) = nested.items()
    return [key, *_path(value)] if isinstance(value, Mapping) else [key]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
