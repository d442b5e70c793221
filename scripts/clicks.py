"""Click prediction from a file in Criteo's format: embeddings of categories that nobody has counted, and two small networks.

    python scripts/clicks.py --make clicks.txt --rows 300000        such a file, of a hidden model (or .gz)
    mpirun -n 3 python scripts/clicks.py clicks.txt                 one server, two workers; Criteo's own train.txt or day_0.gz too

The categories' embeddings lie in a table without a number of rows: any 64-bit id is one, and is born when it is first pushed.
Each worker reads its own blocks of the file; the last tenth of the file is held out.
"""

import os
import sys

import numpy as np

import mpips
from mpips.cli import Parser
from mpips.cluster.world import environment_size
from mpips.features import clicks as made_up
from mpips.features.criteo import CATEGORIES, NUMBERS, Clicks, Criteo
from mpips.models.dlrm import DLRM
from mpips.nn import BinaryCrossEntropy, auc
from mpips.train.start import script


def arguments():
    parser = Parser(prog="clicks.py", description=__doc__.split("\n")[0])
    parser.add_argument("file", nargs="?", help="a file in Criteo's format, plain or .gz")
    parser.add_argument("--make", metavar="FILE", help="write a file of a hidden model, and end")
    parser.add_argument("--rows", type=int, default=300_000, help="lines of that file (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the file and of the first values (%(default)s)")
    parser.add_argument("--epochs", type=int, default=1, help="(%(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="lines of a worker's step (%(default)s)")
    parser.add_argument("--dim", type=int, default=8, help="numbers of an embedding (%(default)s)")
    parser.add_argument("--optimizer", default="adagrad", help="of networks and embeddings (%(default)s)")
    parser.add_argument("--lr", type=float, default=0.02, help="(%(default)s)")
    parser.add_argument("--staleness", default="4", help="clocks that a worker may be ahead, or none for any (%(default)s)")
    parser.add_argument("--servers", type=int, default=1, help="(%(default)s)")
    parser.add_argument("--capacity", type=int, default=1 << 21, help="categories that there is room for (%(default)s)")
    args = parser.parse_args()
    if (args.file is None) == (args.make is None):
        parser.error("give either a file, or --make FILE")
    if args.make and environment_size(os.environ)[0] > 1:
        parser.error("--make writes one file: start it without mpirun")
    for key in ("rows", "epochs", "batch", "dim", "servers", "capacity"):
        if getattr(args, key) < 1:
            parser.error(f"--{key} {getattr(args, key)} is not a number from 1")
    if args.staleness != "none" and not args.staleness.isdecimal():
        parser.error(f"--staleness {args.staleness!r} is neither none nor a number from 0")
    return args


def make_tables(args):
    staleness = None if args.staleness == "none" else int(args.staleness)
    rule = mpips.optim.make(args.optimizer, lr=args.lr)
    same = {"rows": None, "capacity": args.capacity, "staleness": staleness}
    return [
        mpips.Rows("category", dim=args.dim, optimizer=rule, init=mpips.init.normal(0.05), **same),
        mpips.Rows("wide", dim=1, optimizer=mpips.optim.FTRL(lr=0.05, l2=1.0), **same),
        *model.tables(rule, staleness=staleness),
    ]


def work(ps: mpips.Worker):
    names = [table.name for table in tables[2:]]
    counts, losses = np.zeros(2), []

    def pull(lines: Clicks):
        params = dict(zip(names, ps.pull(names), strict=True))
        return params, ps.xp.asarray(lines.dense()), ps.pull("category", rows=lines.ids), ps.pull("wide", rows=lines.ids)[:, :, 0]

    def train(lines: Clicks):
        params, x, v, wide = pull(lines)
        loss, grads, dv, dw = model.loss_and_grads(params, x, v, ps.xp.asarray(lines.labels), wide)
        ps.push(grads)
        ps.push("category", dv, rows=lines.ids)
        ps.push("wide", dw[:, :, None], rows=lines.ids)
        losses.append(loss)  # in the first epoch, of lines that nobody has trained on

    for epoch in range(args.epochs):
        mine = file.clicks(ps.index, ps.workers, stop=file.held_out)
        for step in range(1, file.steps(ps.workers) + 1):  # the same for all: who has no lines left goes with the others
            lines = next(mine, None)
            if lines is not None:
                train(lines)
                counts += lines.labels.sum(), len(lines.labels)
            ps.clock()
            if ps.index == 0 and step % 100 == 0:
                print(f"epoch {epoch + 1}  step {step} of {file.steps(ps.workers)}  log loss {np.mean(losses[-100:]):.4f}",
                      flush=True)
    speed = file.bytes / 1e6 / file.seconds if file.seconds else 0.0

    ps.barrier()  # all have trained
    labels, found, best = [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]
    for lines in file.clicks(ps.index, ps.workers, start=file.held_out):
        params, x, v, wide = pull(lines)
        labels.append(lines.labels)
        found.append(np.asarray(model.logits(params, x, v, wide), np.float64))
        best.append(hidden.odds(lines) if hidden else np.zeros(0))
    return counts / args.epochs, np.concatenate(labels), np.concatenate(found), np.concatenate(best), speed


def report(results):
    counts, *arrays, speeds = zip(*results, strict=True)
    labels, found, best = map(np.concatenate, arrays)
    ones, trained = sum(counts)
    rate = (ones + 0.5) / (trained + 1)
    print(f"{trained:.0f} lines trained on, {len(labels)} held out; a worker read {np.mean(speeds):.0f} MB/s")
    print("held out            log loss     AUC")
    rows = [("base rate", np.full(len(labels), np.log(rate / (1 - rate)))), ("this model", found)]
    for name, odds in [*rows, ("the hidden model", best)] if hidden else rows:
        print(f"{name:<18}  {float(BinaryCrossEntropy().forward(odds, labels)[0]):8.4f}  {auc(odds, labels):.4f}")


if __name__ == "__main__":
    with script():
        args = arguments()
        if args.make:
            size = made_up.make(args.make, args.rows, made_up.Hidden(seed=args.seed))
            print(f"{args.make}: {args.rows} lines, {size / 1e6:.1f} MB of text")
            sys.exit()
        file = Criteo.open(args.file, args.batch)
        hidden = made_up.made(args.file)
        model = DLRM(inputs=2 * NUMBERS, fields=CATEGORIES, dim=args.dim)
        tables = make_tables(args)
    results = mpips.run(work, tables, servers=args.servers, seed=args.seed, device="cpu")
    if results is not None:  # on worker 0
        report(results)
