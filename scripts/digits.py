"""Handwritten digits, with the parameter server's verbs in sight; `scripts/digits.toml` is the same for `mpips train`.

    mpirun -n 3 python scripts/digits.py         one server, two workers
    python scripts/digits.py                     all in one process
"""

import mpips
from mpips.train import Order, load, source

model = mpips.models.make("mlp", inputs=64, outputs=10, hidden=[64])
tables = model.tables(mpips.optim.Momentum(lr=0.1), staleness=0, combine="mean")
names = [table.name for table in tables]


def work(ps: mpips.Worker) -> float:
    data = load(source("digits")).to(ps.xp)
    order = Order(len(data.x), batch=32, workers=ps.workers, seed=0)
    for clock in range(ps.now, 20 * order.steps):  # a resumed run goes on at its clock
        rows = ps.xp.asarray(order.rows(clock, ps.index))
        params = dict(zip(names, ps.pull(names), strict=True))
        loss, grads = model.loss_and_grads(params, data.x[rows], data.y[rows])
        ps.push(grads)
        ps.clock()
        if ps.index == 0 and order.epoch(clock + 1) > order.epoch(clock):
            print(f"epoch {order.epoch(clock + 1)}  loss {loss:.4f}", flush=True)
    params = dict(zip(names, ps.pull(names), strict=True))
    return mpips.nn.accuracy(model.predict(params, data.x_test), data.y_test)


if __name__ == "__main__":
    accuracies = mpips.run(work, tables, servers=1, device="auto", checkpoint=mpips.Checkpoints("runs/digits-py", every=100))
    if accuracies is not None:  # on worker 0
        print(f"held-out accuracy {accuracies[0]:.4f}")
