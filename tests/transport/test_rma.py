"""What is larger than one call of MPI takes; the rest of `rma` is tested on real ranks, in `tests/jobs`."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from mpips.transport import rma


@pytest.mark.parametrize("size", [0, 1, 8, 9, 17])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, ml_dtypes.bfloat16])
def test_pieces_are_all_bytes_in_order_and_none_is_too_long(size: int, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rma, "LONGEST", 8)
    data = np.arange(size).astype(dtype)
    pieces = list(rma._pieces(100, data))
    assert b"".join(piece.tobytes() for _, piece in pieces) == data.tobytes()
    assert [at for at, _ in pieces] == list(range(100, 100 + data.nbytes, 8))
    assert all(piece.size <= 8 and np.shares_memory(piece, data) for _, piece in pieces)
