"""FORMAT.md is the specification: its reader, which knows nothing of mpips, reads what is written."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from mpips.checkpoint import schema
from mpips.table import Dense, Rows
from tests.checkpoint import making

TEXT = files("mpips.checkpoint").joinpath("FORMAT.md").read_text()


def test_its_reader_reads(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert "mpips" not in code.replace("mpips-checkpoint", "")
    namespace: dict[str, Any] = {}
    exec(compile(code, "FORMAT.md", "exec"), namespace)
    tables = [Dense("w", (900, 1000), making.ADAM), Dense("h", (7, 3), making.ADAM, dtype="bfloat16"),
              Dense("s", (), making.SGD, dtype="float64"),
              Dense("e", (3, 0), making.SGD, dtype="float16", master=False)]
    out = namespace["load"](making.save(tmp_path, tables, servers=3))
    for table in tables:
        for slot in (None, *making.slots_of(table)):
            found = out[table.name, schema.slot_array(slot)]
            assert found.shape == table.shape
            assert found.tobytes() == making.truth(tables)[table.name, slot].tobytes()


def test_it_names_every_member() -> None:
    kinds = (schema.Manifest, schema.SavedTable, schema.Blocks, schema.Shard, schema.Master, schema.Job,
             schema.ShardIndex, schema.ShardTable, schema.State, schema.Kept)
    for kind in kinds:
        for name in kind.__struct_fields__:
            assert re.search(rf"\b{name}\b", TEXT), name
    for dtype, stored in schema.STORED.items():
        assert f'"{dtype}": "{stored}"' in TEXT
    for table in (Dense("w", (3,), making.SGD), Rows("u", rows=None, capacity=3, dim=2, optimizer=making.SGD)):
        for name in table.describe():
            assert f"`{name}`" in TEXT, name
