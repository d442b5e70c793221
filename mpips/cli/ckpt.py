"""`mpips ckpt`: look at checkpoints; reads without MPI and changes nothing.

| command                 | tells                                                                          |
|-------------------------|--------------------------------------------------------------------------------|
| `ls DIR`                | the checkpoints of a directory, incomplete and broken ones too                 |
| `tree PATH`             | tables, arrays and blocks of one, and what lies in which file                  |
| `info PATH`             | its manifest: clocks, versions, seed, meta                                     |
| `show PATH TABLE`       | values or slots, some rows, the row with an id, or numbers about them          |
| `diff A B`              | in which tables two differ, and by how much; exit code 1 if they do            |
| `verify PATH`           | everything that is wrong with it; exit code 1 if there is something            |
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpips.errors import FAILED, OK, UsageError

if TYPE_CHECKING:
    from mpips.checkpoint.read import Saved

SHOWN = 1000  # elements that `show` prints without being asked for rows
NAME = 20  # characters of a name that are in one line on a narrow terminal, too
HEAD = 6  # rows that it prints of a larger table


def add_parser(subparsers: Any) -> None:
    """Add `ckpt` and its subcommands to the subparsers of `mpips`."""
    text = "look at checkpoints"
    parser = subparsers.add_parser("ckpt", help=text, description=f"{text.capitalize()}; changes nothing.")
    parser.set_defaults(run=run)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    path = "a checkpoint: its directory, model.h5 or manifest.json"

    def action(name: str, text: str, target: str = path) -> Any:
        sub = actions.add_parser(name, parents=[common], help=text, description=f"{text[0].upper()}{text[1:]}.")
        sub.add_argument("path", metavar="DIR" if target != path else "PATH", help=target)
        return sub

    action("ls", "list the checkpoints of a directory, broken ones too", "directory of checkpoints")
    action("tree", "show tables, arrays and files")
    action("info", "show clocks, versions, seed and meta")
    show = action("show", "show the values or a slot of a table, or numbers about them")
    show.add_argument("table", metavar="TABLE", help="name of the table")
    show.add_argument("--slot", metavar="S", help="a slot of the optimizer instead of the values")
    what = show.add_mutually_exclusive_group()
    what.add_argument("--rows", metavar="A:B", type=_rows, help="rows of the first axis: 0:10, 7, --rows=-3:; where rows are born "
                      "with any id, counted as they are stored")
    what.add_argument("--id", metavar="ID", type=int, help="the row of a table of rows with this id")
    what.add_argument("--stats", action="store_true", help="shape, dtype, min, max, mean, norm, zeros, nonfinite")
    two = action("diff", "say in which tables two checkpoints differ, and by how much; exit code 1 if they do")
    two.add_argument("other", metavar="OTHER", help="another, saved by any number of servers")
    action("verify", "check structure and every checksum; exit code 1 if anything is wrong")


def run(args: argparse.Namespace) -> int:
    """Run one `mpips ckpt` command; UsageError (CheckpointError is one) for a path that is no checkpoint or not readable."""
    try:
        return ACTIONS[args.action](args)
    except OSError as error:
        if error.filename is None:  # of stdout, which is no path of a checkpoint
            raise
        raise UsageError(f"{error.filename}: {error.strerror or error}") from error


def _ls(args: argparse.Namespace) -> int:
    from mpips.checkpoint.schema import step_of, steps
    from mpips.checkpoint.summary import entries

    directory = Path(args.path)
    if not directory.is_dir():
        raise UsageError(f"{directory}: not a directory")
    found = entries(directory)
    if args.json:
        return _json([asdict(entry) for entry in found])
    if not found:
        if step_of(directory.resolve().name) is not None:
            return _say(f"{directory}: no directory of checkpoints, but one of them; see mpips ckpt tree")
        inside = [str(entry) for entry in sorted(directory.iterdir()) if os.access(entry, os.R_OK | os.X_OK) and steps(entry)]
        return _say(f"{directory}: no checkpoints" + (f"; there are some in {', '.join(inside)}" if inside else ""))
    header = ("checkpoint", "clock", "state", "workers", "servers", "tables", "size", "age", "problem")
    return _table(header, [
        (e.name, str(e.step), e.state, _number(None if e.clocks is None else len(e.clocks)), _number(e.servers),
         _number(e.tables), _size(e.bytes), _age(e.age), e.problem or "") for e in found])


def _tree(args: argparse.Namespace) -> int:
    from msgspec import to_builtins

    from mpips.checkpoint.schema import state_array

    with _open(args.path) as saved:
        manifest, path = saved.manifest, saved.path
    tables = [{"name": t.name, "kind": t.describe["kind"], "shape": list(t.shape), "dtype": t.describe["dtype"], "bytes": t.nbytes,
               "arrays": t.arrays, "optimizer": t.describe["optimizer"], "blocks": len(t.blocks.shard),
               "folds": None if t.of_rows else _ends(t.blocks.folds),  # each row has its own
               "states": to_builtins(t.states)} for t in manifest.tables]
    files = [{"file": shard.file, "bytes": shard.bytes, "elements": {
        t.name: t.lengths()[number] * prod(t.trail("value")) for t in manifest.tables if number in t.blocks.shard}}
        for number, shard in enumerate(manifest.shards)]
    if args.json:
        return _json({"path": str(path), "clock": manifest.clock, "tables": tables, "files": files})
    _say(f"{path}  clock {manifest.clock}")
    for t in manifest.tables:
        rule = t.describe["optimizer"]["name"]
        if t.of_rows:
            born = f" with any id, of {t.describe['capacity']} that may live" if t.has_ids else ""
            how = f"rows{born}, folded by {rule}"
        else:
            how = f"folded {'-'.join(str(n) for n in dict.fromkeys(_ends(t.blocks.folds)))} times by {rule}"
        _say(f"  {t.name}  {t.shape}  {_count(len(t.blocks.shard), 'block')}, {how}")
        for array, dtype in t.arrays.items():
            _say(f"    {array}  {dtype}{'  one for each row' if array in t.single else ''}")
    for number, shard in enumerate(manifest.shards):
        _say(f"  {shard.file}  {_size(shard.bytes)}")
        for t in manifest.tables:
            n = t.blocks.shard.count(number)
            if n:
                _say(f"    {t.name}  {_count(n, 'block')}, {_count(t.lengths()[number], 'row' if t.of_rows else 'element')}")
            state = t.state(number)
            for name, kept in state.arrays.items():
                _say(f"    {t.name}  {state_array(name)}  {kept.dtype} {tuple(kept.shape)}")
            if state.counters:
                _say(f"    {t.name}  {', '.join(f'{name} {count}' for name, count in state.counters.items())}")
    return OK


def _info(args: argparse.Namespace) -> int:
    with _open(args.path) as saved:
        m = saved.manifest
        facts: dict[str, Any] = {
            "path": str(saved.path), "format": f"{m.format} {m.version}", "clock": m.clock, "clocks": m.clocks,
            "seed": m.seed, "serial": m.serial, "revision": m.revision, "job": {"id": m.job.id, "restart": m.job.restart},
            "servers": m.servers, "tables": len(m.tables), "elements": sum(t.size for t in m.tables),
            "bytes": sum(s.bytes for s in m.shards),
            "versions": m.versions, "meta": m.meta}
    if args.json:
        return _json(facts)
    facts["bytes"] = f"{facts['bytes']} ({_size(facts['bytes'])})"
    facts["job"] = f"{m.job.id}, started again {m.job.restart} times"
    facts["clocks"] = _clocks(m.clocks)
    lines: list[tuple[str, Any]] = []
    for key, value in facts.items():
        if isinstance(value, dict) and value:
            lines += [(f"{key}.{inner}", text) for inner, text in value.items()]
        else:
            lines.append((key, value))
    width = max(len(key) for key, _ in lines)
    for key, value in lines:
        _say(f"{key:<{width}}  {value}")
    return OK


def _show(args: argparse.Namespace) -> int:
    import numpy as np

    from mpips.checkpoint.summary import rows, stats

    with _open(args.path) as saved:
        described = saved.table(args.table)
        array = saved.array_name(args.table, args.slot)
        shape = described.whole(array)
        head = {"path": str(saved.path), "table": args.table, "slot": args.slot}
        if args.stats:
            numbers = asdict(stats(saved, args.table, args.slot))
            if args.json:
                return _json({**head, **numbers})
            for key, value in numbers.items():
                _say(f"{key:<9}  {tuple(value) if key == 'shape' else '-' if value is None else value}")
            return OK
        part = args.rows or slice(0, HEAD if prod(shape) > SHOWN else None)
        if args.id is not None:
            part = _row_of(saved, args.table, args.id)
        values = rows(saved, args.table, args.slot, part)
        length = shape[0] if shape else 1
        first, last, _ = part.indices(length)
        if args.rows not in (None, slice(None)) and last <= first:
            asked = ":".join("" if end is None else str(end) for end in (args.rows.start, args.rows.stop))
            raise UsageError(f"{saved.path}: table '{args.table}' has {_count(length, 'row')}, none of them in --rows {asked}")
        ids = saved.part(args.table, "ids", first, max(first, last)) if described.has_ids else None
    dtype = values.dtype.name
    if values.dtype.itemsize == 2:
        values = values.astype(np.float32)  # to be printed
    if args.json:
        return _json({**head, "shape": list(shape), "dtype": dtype, "rows": [first, max(first, last)],
                      **({} if ids is None else {"ids": ids.tolist()}), "values": values.tolist()})
    _say(f"{args.table}{f' slot {args.slot}' if args.slot else ''}  {shape}  {dtype}")
    threshold = sys.maxsize if args.rows else SHOWN
    if ids is not None:
        _say(f"ids {np.array2string(ids, threshold=threshold)}")
    _say(np.array2string(values, threshold=threshold))
    if args.rows is None and args.id is None and last < length:
        _say(f"({last} of {length} rows; --rows a:b shows others, --stats sums up)")
    return OK


def _row_of(saved: Saved, table: str, wanted: int) -> slice:
    """Return where the row with an id is stored."""
    import numpy as np

    found = np.flatnonzero(saved.ids(table) == wanted)
    if not found.size:
        raise UsageError(f"{saved.path}: table '{table}' has no row with id {wanted}")
    return slice(int(found[0]), int(found[0]) + 1)


def _diff(args: argparse.Namespace) -> int:
    from mpips.checkpoint.diff import diff

    with _open(args.path) as a, _open(args.other) as b:
        found = diff(a, b)
    code = OK if found.same else FAILED
    if args.json:
        _json({**asdict(found), "a": str(found.a), "b": str(found.b), "same": found.same})
        return code
    _say(f"a: {found.a}\nb: {found.b}")
    if found.clock[0] != found.clock[1]:
        _say(f"clock {found.clock[0]} in a, {found.clock[1]} in b")
    for table in found.tables:
        if table.only:
            _say(f"table '{table.name}': only in {table.only}")
        for fact, (x, y) in table.facts.items():
            _say(f"table '{table.name}': {fact} {x} in a, {y} in b")
    gaps = [(table.name, gap.array, str(gap.differ), str(gap.elements), f"{gap.absolute:.4g}", f"{gap.relative:.4g}")
            for table in found.tables for gap in table.arrays if gap.differ]
    if gaps:
        _table(("table", "array", "differ", "of", "max abs", "max rel"), gaps)
    differ = sum(not table.same for table in found.tables)
    _say(f"{differ} of {_count(len(found.tables), 'table')} differ{'s' if differ == 1 else ''}")
    return code


def _verify(args: argparse.Namespace) -> int:
    from mpips.checkpoint.verify import verify

    report = verify(args.path)
    if args.json:
        _json({"path": str(report.path), "ok": report.ok, "blocks": report.blocks, "bytes": report.nbytes,
               "findings": [asdict(finding) for finding in report.findings]})
        return OK if report.ok else FAILED
    for finding in report.findings:
        _say(str(finding))
    looked = f"{_count(report.blocks, 'block')} ({_size(report.nbytes)}) compared with their checksums"
    _say(f"{report.path}: {'ok' if report.ok else _count(len(report.findings), 'finding')}, {looked}")
    return OK if report.ok else FAILED


ACTIONS = {"ls": _ls, "tree": _tree, "info": _info, "show": _show, "diff": _diff, "verify": _verify}


def _open(path: str) -> Saved:
    from mpips.checkpoint.read import Saved

    return Saved(path)


def _rows(text: str) -> slice:
    """Parse "a:b", "a:", ":b", ":" or "a"."""
    parts = text.split(":")
    try:
        ends = [int(p) if p.strip() else None for p in parts]
    except ValueError:
        ends = []
    if len(ends) == 2:
        return slice(ends[0], ends[1])
    if len(ends) == 1 and ends[0] is not None:
        return slice(ends[0], ends[0] + 1 or None)
    raise argparse.ArgumentTypeError(f"{text!r} is not rows such as 0:10 or 7")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Print rows of text under a header: by rich on a terminal, else aligned with spaces."""
    if sys.stdout is not None and sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*header)
        for column in table.columns:
            column.overflow = "fold"  # on a narrow terminal; an end that is cut off may be what is looked for
        table.columns[0].min_width = min(NAME, max(len(row[0]) for row in (header, *rows)))
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        Console().print(table)
        return OK
    widths = [max(len(row[k]) for row in (header, *rows)) for k in range(len(header))]
    for row in (header, *rows):
        _say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return OK


def _json(value: Any) -> int:
    """Print strict JSON: NaN and infinities, which it has not, as strings."""
    import json

    def plain(x: Any) -> Any:
        if isinstance(x, float) and not isfinite(x):
            return str(x)
        if isinstance(x, dict):
            return {k: plain(v) for k, v in x.items()}
        return [plain(v) for v in x] if isinstance(x, (list, tuple)) else x

    return _say(json.dumps(plain(value), allow_nan=False))


def _say(text: str) -> int:
    print(text)
    return OK


def _size(n: int) -> str:
    """Return bytes as a person reads them.

    >>> _size(1536)
    '1.5 KiB'
    """
    size = float(n)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'' if n == 1 else 's'}"


def _ends(numbers: Sequence[int]) -> list[int]:
    return [min(numbers, default=0), max(numbers, default=0)]


def _number(n: int | None) -> str:
    return "" if n is None else str(n)


def _clocks(clocks: Sequence[int]) -> str:
    """Tell the workers' clocks briefly if they are equal."""
    if len(clocks) > 1 and len(set(clocks)) == 1:
        return f"{clocks[0]} ({len(clocks)} workers)"
    return ", ".join(map(str, clocks))
