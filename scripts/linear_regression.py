"""y = w x + b by gradient descent on the mean squared error; the server keeps w and b, each worker has its own samples.

    mpirun -n 4 python scripts/linear_regression.py         one server, three workers
    python scripts/linear_regression.py                     all in one process

With prediction p = w x + b and loss mean((p - y)^2), the gradients are 2 mean((p - y) x) and 2 mean(p - y).
"""

import numpy as np

import mpips

TRUE_W, TRUE_B = 3.0, -1.0
rule = mpips.optim.SGD(lr=0.2)
tables = [mpips.Dense("w", shape=(1,), optimizer=rule, combine="mean"),
          mpips.Dense("b", shape=(1,), optimizer=rule, combine="mean")]


def samples(seed: int, n: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    x = draw.uniform(-1, 1, n)
    y = TRUE_W * x + TRUE_B + 0.1 * draw.standard_normal(n)
    return x.astype(np.float32), y.astype(np.float32)


def work(ps: mpips.Worker) -> tuple[float, float, float]:
    x, y = (ps.xp.asarray(values) for values in samples(seed=ps.index))  # NumPy, or CuPy on a GPU
    for _ in range(100):
        w, b = ps.pull(["w", "b"])
        error = w * x + b - y
        ps.push({"w": 2 * (error * x).mean(keepdims=True), "b": 2 * error.mean(keepdims=True)})
        ps.clock()
    w, b = ps.pull(["w", "b"])  # the newest: all workers' gradients are in
    return float(w[0]), float(b[0]), float(w[0] * 0.5 + b[0])


if __name__ == "__main__":
    results = mpips.run(work, tables, device="auto")
    if results is not None:  # on worker 0
        w, b, y = results[0]
        print(f"w = {w:.3f}  b = {b:.3f}  y(0.5) = {y:.3f}")
