"""Every way between host and device: values, dtypes, and the order of what is still under way."""

import ml_dtypes
import numpy as np
import pytest

from mpips.arrays import (
    Staging,
    device_available,
    device_count,
    from_words,
    pick_device,
    to_host,
    to_words,
    use,
)
from mpips.errors import UsageError

AVAILABLE, REASON = device_available()
if not AVAILABLE:
    pytest.skip(REASON, allow_module_level=True)
cp = use(0)
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings(r"default:::cupy\w*(\..*)?")]

BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), np.dtype(np.int64), BF16]
SHAPES = [(), (0,), (3, 0), (7,), (33, 65), (3_000_000,)]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture(scope="module")
def staging():
    return Staging(0)


def values(shape, dtype):
    """Return small whole numbers, which every dtype holds."""
    return (np.arange(int(np.prod(shape, dtype=int))) % 251 - 125).reshape(shape).astype(dtype)


def pinned(host):
    return cp.cuda.pinned_memory.is_memory_pinned(host.ctypes.data)


def test_pick_a_device():
    assert device_count() >= 1
    assert pick_device("gpu", 0) == pick_device("auto", device_count()) == 0


@every_dtype
@every_shape
@pytest.mark.parametrize("memory", ["ordinary", "pinned", "strided"])
def test_to_device(staging, shape, dtype, memory):
    host = values(shape, dtype)
    buffer = {"ordinary": np.empty(shape, dtype), "pinned": staging.empty(shape, dtype),
              "strided": np.empty((*shape, 2), dtype)[..., 0]}[memory]
    buffer[...] = host
    assert memory != "pinned" or host.size == 0 or pinned(buffer)
    x = staging.to_device(buffer)
    buffer[...] = 0  # it is ours again
    assert isinstance(x, cp.ndarray)
    assert x.shape == shape
    assert x.dtype == (np.float32 if dtype == BF16 else dtype)
    assert np.array_equal(to_host(x), host.astype(x.dtype))


@every_dtype
@every_shape
@pytest.mark.parametrize("memory", ["new", "pinned", "ordinary"])
def test_to_host(staging, shape, dtype, memory):
    host = values(shape, dtype)
    x = cp.asarray(host.astype(np.float32) if dtype == BF16 else host)
    out = {"new": None, "pinned": staging.empty(shape, dtype), "ordinary": np.empty(shape, dtype)}[memory]
    got = staging.to_host(x, out, dtype=dtype)
    assert out is None or got is out
    assert got.dtype == dtype
    assert got.shape == shape
    assert np.array_equal(got.astype(np.float64), host.astype(np.float64))
    assert memory == "ordinary" or got.size == 0 or pinned(got)


def test_to_host_of_a_strided_array(staging):
    x = cp.arange(24, dtype=np.float32).reshape(4, 6)
    assert np.array_equal(staging.to_host(x[::2, ::3]), x.get()[::2, ::3])
    assert np.array_equal(staging.to_host(x.T), x.get().T)


def test_bfloat16_is_rounded_like_on_the_host(staging):
    words = np.arange(1 << 16, dtype=np.uint32)[:, None] << 16
    x = (words | np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)).view(np.float32)
    x = x[~np.isnan(x).any(axis=1)]
    with np.errstate(over="ignore"):
        expected = x.astype(BF16).view(np.uint16)
    assert np.array_equal(staging.to_host(cp.asarray(x), dtype=BF16).view(np.uint16), expected)
    assert np.array_equal(to_words(cp.asarray(x)).get(), expected)
    every = np.arange(1 << 16, dtype=np.uint16)
    assert np.array_equal(from_words(cp.asarray(every)).view(np.uint32).get(), from_words(every).view(np.uint32))


def test_one_wait_for_many(staging):
    hosts = [values((1000 + k,), np.float32) for k in range(20)]
    up = [staging.to_device(h, wait=False) for h in hosts]
    down = [staging.to_host(2 * x, wait=False) for x in up]
    staging.wait()
    for host, got in zip(hosts, down, strict=True):
        assert np.array_equal(got, 2 * host)


@pytest.mark.parametrize("turned", [False, True], ids=["contiguous", "turned"])
def test_copies_come_after_the_kernels_before_them(staging, turned):
    """A copy that did not wait would read what the kernels have not written yet."""
    x = cp.zeros((2000, 2000), np.float32)
    for _ in range(5):
        for _ in range(50):
            x += 1
        got = staging.to_host(x.T if turned else x)
        assert got.min() == got.max() == float(x[0, 0])


def test_memory_of_a_dropped_array_is_not_filled_too_early(staging):
    """The pool gives the dropped array's memory to the next copy while kernels that read it are still queued."""
    n = 4_000_000
    host = staging.empty((n,), np.float32)
    for step in range(10):
        host[:] = step
        x = staging.to_device(host)
        sums = [x * k for k in range(20)]
        del x
        host[:] = -1
        other = staging.to_device(host, wait=False)
        assert all(float(s.min()) == float(s.max()) == step * k for k, s in enumerate(sums))
        assert float(other.max()) == -1
        staging.wait()


def test_other_streams_than_the_default_one(staging):
    host = values((1_000_000,), np.float32)
    with cp.cuda.Stream(non_blocking=True):
        for _ in range(10):
            x = staging.to_device(host, wait=False)
            got = staging.to_host(x * 3 + 1, wait=False)
            staging.wait()
            assert np.array_equal(got, host * 3 + 1)


def test_what_does_not_fit_is_refused(staging):
    x = cp.zeros((3, 4), np.float32)
    for out in (np.empty((4, 3), np.float32), np.empty((4, 3), np.float32).T, np.empty((3, 4), np.float64)):
        with pytest.raises(UsageError, match="staging: "):
            staging.to_host(x, out, dtype=np.float32)
    with pytest.raises(UsageError, match="a device array of float32 does not travel as float16"):
        staging.to_host(x, dtype=np.float16)
