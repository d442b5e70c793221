"""Recommending items by who has what: matrix factorisation and neural collaborative filtering on a sparse matrix.

    mpirun -n 3 python scripts/collaborative.py                           one server, two workers
    python scripts/collaborative.py --model ncf                           all in one process; --help shows what can be set
    python scripts/collaborative.py --ratings ml-latest-small/ratings.csv    a file in one of MovieLens' formats

Unless a file is given, users are the modules of Python's standard library and items the identifiers in them: which names belong
into a module that one has seen four fifths of? Three tables of rows, "user", "item" and "bias" (of an item), and with --model ncf
the layers as dense tables. A step pulls the rows of a batch and of items drawn to stand against them, and pushes their gradients.
"""

import numpy as np

import mpips
from mpips.models.factors import bpr, sampled_softmax
from mpips.models.ncf import NeuMF
from mpips.sampling import Sampler
from mpips.train import Order
from mpips.train.identifiers import standard_library
from mpips.train.interactions import Interactions, popularity, recall, svd
from mpips.train.options import Options
from mpips.train.ratings import ratings
from mpips.train.start import script

parser = Options(prog="collaborative.py", description="Matrix factorisation and neural collaborative filtering.")
parser.add_argument("--model", choices=["softmax", "bpr", "ncf"], default="softmax",
                    help="factorisation by the sampled softmax, or by BPR (Rendle et al. 2009), or NeuMF (He et al. 2017)")
parser.add_argument("--ratings", metavar="FILE", help="ratings.csv, ratings.dat or u.data instead of the standard library")
parser.real("--rating", 0.0, "the least rating that counts")
parser.whole("--dim", 32, "numbers in a factorisation's vectors, and rank of the SVD")
parser.whole("--factors", 32, "numbers in a vector of ncf's factorisation")
parser.add_argument("--hidden", nargs="+", type=int, default=[32, 16], metavar="N", help="units of ncf's layers (32 16)")
parser.whole("--epochs", 25, "passes over the pairs")
parser.whole("--batch", 512, "pairs in one worker's step")
parser.whole("--negatives", 4, "items drawn for each pair (bpr, ncf)")
parser.whole("--drawn", 128, "items drawn for all pairs of a step (softmax)")
parser.real("--power", 0.75, "items are drawn by how many have them, to this power")
parser.real("--decay", 0.2, "weight decay of the rows of a step")
parser.add_training(optimizer="adagrad", lr=0.1)
OTHERWISE = {"softmax": {}, "bpr": {"power": 0.5, "decay": 0.05}, "ncf": {"power": 0.0, "decay": 0.1, "lr": 0.05}}  # defaults


def tables(model: NeuMF | None, users: int, items: int) -> list[mpips.Dense | mpips.Rows]:
    dim = model.dim if model else options.dim
    rule = mpips.optim.make(options.optimizer, lr=options.lr, weight_decay=options.decay)
    layers = mpips.optim.make(options.optimizer, lr=options.lr)
    rows = {"init": mpips.init.normal(0.1), "staleness": options.staleness}
    return [mpips.Rows("user", users, dim, rule, **rows), mpips.Rows("item", items, dim, rule, **rows),
            *(model.tables(layers, staleness=options.staleness) if model else
              [mpips.Rows("bias", items, 1, layers, staleness=options.staleness)])]


def softmax_step(ps: mpips.Worker, users: np.ndarray, items: np.ndarray, noise: Sampler, clock: int) -> float:
    """All pairs stand against the same items, drawn by how popular they are."""
    others = noise.draw(options.drawn, worker=ps.index, clock=clock)
    both = np.concatenate([items, others])
    user, item, bias = ps.pull("user", rows=users), ps.pull("item", rows=both), ps.pull("bias", rows=both)
    n, chance = len(items), (noise.probabilities * options.drawn).astype(np.float32)
    loss, g = sampled_softmax(user, item[:n], bias[:n], item[n:], bias[n:], chance=chance[items], other_chance=chance[others],
                              wrong=items[:, None] == others)
    ps.push("user", g["user"], rows=users)
    ps.push("item", np.concatenate([g["item"], g["other"]]), rows=both)
    ps.push("bias", np.concatenate([g["bias"], g["other_bias"]]), rows=both)
    return loss


def bpr_step(ps: mpips.Worker, users: np.ndarray, items: np.ndarray, noise: Sampler, clock: int) -> float:
    """Every pair stands against items of its own that the user does not have."""
    others = noise.draw((len(items), options.negatives), worker=ps.index, clock=clock,
                        avoid=lambda ids: train.have(users[:, None], ids))
    both = np.concatenate([items[:, None], others], axis=1)
    user, item, bias = ps.pull("user", rows=users), ps.pull("item", rows=both), ps.pull("bias", rows=both)
    loss, g = bpr(user, item[:, 0], bias[:, 0], item[:, 1:], bias[:, 1:])
    ps.push("user", g["user"], rows=users)
    ps.push("item", np.concatenate([g["item"][:, None], g["other"]], axis=1), rows=both)
    ps.push("bias", np.concatenate([g["bias"][:, None], g["other_bias"]], axis=1), rows=both)
    return loss


def ncf_step(ps: mpips.Worker, users: np.ndarray, items: np.ndarray, noise: Sampler, clock: int) -> float:
    """Every pair has label 1 and the items drawn for it 0; the layers' gradients are those of dense tables."""
    others = noise.draw((len(items), options.negatives), worker=ps.index, clock=clock,
                        avoid=lambda ids: train.have(users[:, None], ids))
    items = np.concatenate([items[:, None], others], axis=1).reshape(-1)
    users = np.repeat(users, 1 + options.negatives)
    label = (np.arange(len(items)) % (1 + options.negatives) == 0).astype(np.float32)
    user, item, layers = ps.pull("user", rows=users), ps.pull("item", rows=items), dict(zip(dense, ps.pull(dense), strict=True))
    loss, g = model.loss_and_grads(layers, user, item, label)
    ps.push("user", g["user"], rows=users)
    ps.push("item", g["item"], rows=items)
    ps.push({name: g[name] for name in dense})
    return loss


def work(ps: mpips.Worker) -> float:
    step = {"softmax": softmax_step, "bpr": bpr_step, "ncf": ncf_step}[options.model]
    order = Order(len(train.users), batch=options.batch, workers=ps.workers, seed=options.seed)
    counts = np.maximum(train.counts, 1)  # what nobody has may be drawn too
    noise = Sampler(train.shape[1], counts, power=options.power, seed=options.seed)
    total = 0.0
    for clock in range(ps.now, options.epochs * order.steps):  # a resumed run goes on at its clock
        mine = order.rows(clock, ps.index)
        total += step(ps, train.users[mine], train.items[mine], noise, clock) / max(1, len(mine))
        ps.clock()
        if ps.index == 0 and order.epoch(clock + 1) > order.epoch(clock):
            print(f"epoch {order.epoch(clock + 1)}  loss {total / order.steps:.4f}", flush=True)
            total = 0.0
    ps.barrier()  # the others' last gradients are in
    return recall(scores(ps), train, held) if ps.index == 0 else 0.0


def scores(ps: mpips.Worker):
    """A function from users to their scores for all items."""
    user, item = ps.pull("user"), ps.pull("item")
    if model:
        layers = dict(zip(dense, ps.pull(dense), strict=True))
        return lambda users: model.score_all(layers, user[users], item)
    bias = ps.pull("bias")
    return lambda users: user[users] @ item.T + bias[:, 0]


if __name__ == "__main__":
    with script():
        parser.set_defaults(**OTHERWISE[parser.parse_args().model])
        options = parser.parse_args()
        data: Interactions = ratings(options.ratings, least=options.rating) if options.ratings else standard_library()
        train, held = data.split(0.2, options.seed)
        model = NeuMF(options.factors, tuple(options.hidden)) if options.model == "ncf" else None
        declared = tables(model, *train.shape)
        dense = [table.name for table in declared if isinstance(table, mpips.Dense)]
        keep = mpips.Checkpoints(options.checkpoint, every=options.every, resume="auto") if options.checkpoint else None
        results = mpips.run(work, declared, servers=options.servers, checkpoint=keep, seed=options.seed)
    if results is not None:  # on worker 0
        rank = min(options.dim, min(train.shape) - 1)
        print(f"{train.shape[0]} users, {train.shape[1]} items, {len(train.users)} pairs to train on, {len(held.users)} held out")
        for name, value in [("popularity", recall(popularity(train), train, held)),
                            (f"SVD of rank {rank}", recall(svd(train, rank), train, held)),
                            (f"NeuMF {options.factors} + {options.hidden}" if model else f"factors {options.dim}, {options.model}",
                             results[0])]:
            print(f"{name:24} recall@20 {value:.3f}")
