"""Word vectors by skip-gram with negative sampling (Mikolov et al., NIPS 2013), from the text of Python's language reference.

    mpirun -n 3 python scripts/word2vec.py         one server, two workers
    python scripts/word2vec.py                     all in one process; --help shows what can be set

Two tables of rows: "in" has a vector for each word as a center, "out" one for each as a context. A step pulls the rows of a
batch of words, their contexts and some noise words, and pushes the gradients of these rows alone.
"""

import numpy as np

import mpips
from mpips.models.skipgram import skipgram
from mpips.sampling import Sampler
from mpips.train import Order
from mpips.train.data import permutation
from mpips.train.options import Options
from mpips.train.start import script
from mpips.train.text import Pairs, Text, nearest_words, reference

parser = Options(prog="word2vec.py", description="Skip-gram on the text of Python's language reference.")
parser.whole("--dim", 64, "numbers in a vector")
parser.whole("--epochs", 30, "passes over the text")
parser.whole("--batch", 512, "positions of the text in one worker's step")
parser.whole("--window", 5, "words to each side at most")
parser.whole("--negatives", 5, "noise words that count against one pair")
parser.whole("--noise", 128, "noise words drawn in a step, for all its pairs")
parser.real("--sample", 1e-3, "frequency from which words are left out now and then")
parser.whole("--least", 5, "times that a word comes up at least")
parser.add_argument("--words", nargs="+", default=["list", "class", "exception", "integer", "import", "string"],
                    help="whose neighbours are shown")
parser.add_training(optimizer="adagrad", lr=0.1)


def tables(text: Text) -> list[mpips.Rows]:
    rule = mpips.optim.make(options.optimizer, lr=options.lr)
    start = mpips.init.uniform(-0.5 / options.dim, 0.5 / options.dim)
    shape = {"rows": len(text.names), "dim": options.dim, "optimizer": rule, "staleness": options.staleness}
    return [mpips.Rows("in", init=start, **shape), mpips.Rows("out", **shape)]


def work(ps: mpips.Worker) -> tuple[np.ndarray, float, float]:
    pairs = Pairs(train, options.window, options.sample, seed=options.seed)
    order = Order(len(train.words), batch=options.batch, workers=ps.workers, seed=options.seed)
    noise = Sampler(len(train.names), train.counts, seed=options.seed)
    total = seen = 0
    for clock in range(ps.now, options.epochs * order.steps):  # a resumed run goes on at its clock
        centers, contexts = pairs.of(order.rows(clock, ps.index), order.epoch(clock))
        drawn = noise.draw(options.noise, worker=ps.index, clock=clock)
        center, context, against = ps.pull("in", rows=centers), ps.pull("out", rows=contexts), ps.pull("out", rows=drawn)
        loss, grads = skipgram(center, context, against, options.negatives)
        ps.push("in", grads["center"], rows=centers)
        ps.push("out", grads["context"], rows=contexts, more=True)  # summed up here: one push of a table in a step
        ps.push("out", grads["noise"], rows=drawn)
        ps.clock()
        total, seen = total + loss, seen + len(centers)
        if ps.index == 0 and order.epoch(clock + 1) > order.epoch(clock):
            print(f"epoch {order.epoch(clock + 1)}  loss {total / max(1, seen):.4f}", flush=True)
            total = seen = 0
    ps.barrier()  # the others' last gradients are in
    return ps.pull("in"), *told_apart(ps.pull("in"), ps.pull("out"))


def told_apart(center: np.ndarray, context: np.ndarray) -> tuple[float, float]:
    """How often a held-out pair scores above its center with another pair's context; and with the frequency for a score."""
    centers, contexts = Pairs(held, options.window, options.sample).of(np.arange(len(held.words)), 0)
    noise = contexts[permutation(len(contexts), options.seed, 0)]
    score = np.sum(center[centers] * (context[contexts] - context[noise]), axis=1)
    more = train.counts[contexts] - train.counts[noise]
    right, by_frequency = (np.mean((ahead > 0) + 0.5 * (ahead == 0)) for ahead in (score, more))  # a tie is half right
    return float(right), float(by_frequency)


if __name__ == "__main__":
    with script():
        options = parser.parse_args()
        train, held = Text.of(reference(), options.least).split(0.05, options.seed)
        keep = mpips.Checkpoints(options.checkpoint, every=options.every, resume="auto") if options.checkpoint else None
        results = mpips.run(work, tables(train), servers=options.servers, checkpoint=keep, seed=options.seed)
    if results is not None:  # on worker 0
        vectors, right, by_frequency = results[0]
        for word, near in nearest_words(vectors, train.names, options.words).items():
            print(f"{word}: {' '.join(near)}")
        print(f"held-out pairs told from others {right:.3f}, by frequency {by_frequency:.3f}")
