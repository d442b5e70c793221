"""The verbs of a worker with a GPU: what they take lies on it, and so does what they give; one process, no MPI."""

import numpy as np
import pytest

import mpips
from mpips import init, optim
from mpips.arrays import device_available, is_device_array, use
from mpips.errors import UsageError

AVAILABLE, REASON = device_available()
if not AVAILABLE:
    pytest.skip(REASON, allow_module_level=True)
cp = use(0)
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings(r"default:::cupy\w*(\..*)?")]

ADD = optim.Add()  # to the table what is pushed


def run(work, *tables):
    (result,) = mpips.run(work, list(tables), servers=2, device="gpu")
    return result


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_dense_tables(dtype):
    def work(ps):
        assert ps.xp is cp
        w = ps.pull("w")
        assert is_device_array(w)
        assert w.dtype == ("float32" if dtype == "bfloat16" else dtype)
        g = cp.arange(15, dtype=w.dtype).reshape(5, 3).T  # not contiguous
        ps.push("w", g)
        ps.clock()
        out = cp.zeros_like(w)
        assert ps.pull("w", out=out) is out
        seen = [out.get()]
        ps.push("w", g, more=True)
        ps.push({"w": g, "b": cp.ones((), w.dtype)})
        ps.clock()
        seen.append(ps.ipull(["w", "b"]).wait()[0].get())
        seen.append(ps.pushpull({"w": g})["w"].get())
        step = ps.prepare({"w": g}, out={"w": out})
        assert step()["w"] is out
        seen.append(out)  # a result may lie on the device
        ps.ipush("w", np.ones((3, 5), mpips.Dense("w", (1,), ADD, dtype=dtype).np_dtype)).wait()  # on the host, it may too
        ps.clock()
        return [*seen, ps.pull("w")]

    w = mpips.Dense("w", (3, 5), ADD, init.zeros(), dtype=dtype)
    seen = run(work, w, mpips.Dense("b", (), ADD, dtype=dtype))
    g = np.arange(15).reshape(5, 3).T
    for got, want in zip(seen, (g, 3 * g, 4 * g, 5 * g, 5 * g + 1), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tables_of_rows(dtype):
    ids, offsets = np.array([4, 1, 4]), np.array([0, 2, 2])

    def work(ps):
        there = cp.asarray(ids)
        rows = ps.pull("u", rows=there)
        assert is_device_array(rows)
        assert rows.dtype == dtype
        ps.push("u", cp.ones((3, 2), dtype), rows=there)
        ps.clock()
        seen = [ps.pull("u", rows=there).get()]
        assert ps.pull("u", rows=ids, out=rows) is rows
        seen.append(rows.get())
        bags = ps.pull("u", rows=there, pool="sum", offsets=cp.asarray(offsets))
        assert is_device_array(bags)
        ps.push("u", bags, rows=there, pool="sum", offsets=offsets)
        ps.clock()
        return [*seen, bags.get(), ps.pull("u").get()]

    seen = run(work, mpips.Rows("u", rows=6, dim=2, optimizer=ADD, init=init.zeros(), dtype=dtype))
    for got, want in zip(seen, ([2, 1, 2], [2, 1, 2], [3, 0, 2], [0, 4, 0, 0, 7, 0]), strict=True):
        np.testing.assert_array_equal(got, np.repeat(np.array(want, dtype)[:, None], 2, axis=1))


def test_what_does_not_fit_is_refused():
    def work(ps):
        for wrong in (cp.zeros((5, 3), np.float32), cp.zeros((3, 5))):
            with pytest.raises(UsageError, match="a push takes a device array of shape"):
                ps.push("w", wrong)
            with pytest.raises(UsageError, match="out of a pull takes a device array of shape"):
                ps.pull("w", out=wrong)

    run(work, mpips.Dense("w", (3, 5), ADD))
