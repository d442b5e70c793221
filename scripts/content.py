"""Recommendation by content: which pieces of text belong together? The texts are the sources of Python's standard library.

    mpirun -n 3 python scripts/content.py        one server, two workers
    python scripts/content.py                    all in one process

A document is a piece of a module; those of one module belong together. Its features are its words and pairs of neighbouring words,
hashed to 40 bits: there is no vocabulary, a row of a table is born when its feature is first seen. Two models are trained at once:

    linear    logistic regression on the features that two documents share, one weight a row, by FTRL
    towers    a vector for each document, the mean of its features' embeddings times a matrix; trained to find the other document
              of its pair among all of the batch

A quarter of the documents is held out, and no pair that is judged has a document that was trained on.
"""

import sysconfig
from pathlib import Path

import numpy as np

import mpips
from mpips.cli import Parser
from mpips.errors import UsageError
from mpips.features.words import WORD, Common, Texts, TfIdf
from mpips.models.towers import Towers
from mpips.nn import Bags, BinaryCrossEntropy, auc
from mpips.train.start import script

PAIRS = 20_000  # that are judged


def arguments():
    parser = Parser(prog="content.py", description=__doc__.split("\n")[0])
    parser.add_argument("--modules", type=int, default=200, help="the largest so many are taken (%(default)s)")
    parser.add_argument("--words", type=int, default=40, help="in a document (%(default)s)")
    parser.add_argument("--most", type=int, default=100, help="documents of a module (%(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="of each worker (%(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="pairs of a step that belong together (%(default)s)")
    parser.add_argument("--dim", type=int, default=32, help="numbers of an embedding (%(default)s)")
    args = parser.parse_args()
    for key, value in vars(args).items():
        if value < 1:
            parser.error(f"--{key} {value} is not a number from 1")
    if args.modules < 2:
        parser.error("--modules 1: nothing to tell it from")
    if args.batch > args.modules:
        parser.error(f"--batch {args.batch}: each pair is of another module, and --modules is {args.modules}")
    return args


def documents() -> tuple[Texts, np.ndarray]:
    """Return the documents, and the number of each one's module."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [file for pattern in ("*.py", "[a-z]*/*.py") for file in sorted(root.glob(pattern)) if "test" not in str(file)]
    words = sorted((WORD.findall(file.read_bytes().lower()) for file in files if "site-packages" not in str(file)), key=len)
    words = [some for some in words if len(some) >= 8 * args.words][-args.modules :]
    if len(words) < args.modules:
        raise UsageError(f"--modules {args.modules}: {root} has only {len(words)} of at least {8 * args.words} words")
    pieces = [(number, b" ".join(some[at : at + args.words])) for number, some in enumerate(words)
              for at in range(0, min(len(some) - args.words + 1, args.most * args.words), args.words)]
    return Texts.of([piece for _, piece in pieces]), np.array([number for number, _ in pieces])


class Pairs:
    """Draws pairs of documents by module."""

    def __init__(self, module: np.ndarray, among: np.ndarray, seed: list[int]) -> None:
        self.draw = np.random.default_rng(seed)
        self.of = among[np.argsort(module[among], kind="stable")]
        self.count = np.bincount(module[among], minlength=args.modules)
        self.start = np.cumsum(self.count) - self.count

    def documents(self, modules: np.ndarray) -> np.ndarray:
        return self.of[self.start[modules] + self.draw.integers(0, self.count[modules])]

    def together(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return n pairs, each of another module."""
        modules = self.draw.permutation(args.modules)[:n]
        first = self.draw.integers(0, self.count[modules])
        second = (first + self.draw.integers(1, self.count[modules])) % self.count[modules]  # not the same one
        return self.of[self.start[modules] + first], self.of[self.start[modules] + second]

    def both(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return n pairs that belong together, n that do not, and which do."""
        left, right = self.together(n)
        modules = self.draw.permutation(args.modules)
        n = len(left)
        some, others = np.resize(modules, n), np.resize(np.roll(modules, 1), n)
        return (np.append(left, self.documents(some)), np.append(right, self.documents(others)), np.repeat([1.0, 0.0], n))


def shared(common: Common, n: int, seen: np.ndarray) -> Bags:
    """Return the features that each of n pairs shares; with negative ids how rare each is, for new ones, and how many there are."""
    many = np.bincount(common.pair, minlength=n)
    rare = -100 - np.log2(1 + seen).astype(np.int64)
    pair = np.concatenate((common.pair, common.pair, np.arange(n)))
    ids = np.concatenate((common.ids, rare, -1 - np.minimum(many, 20)))
    return Bags(ids[np.argsort(pair, kind="stable")], 2 * many + 1)


def work(ps: mpips.Worker):
    texts, module = documents()
    held_out = (np.arange(texts.count) - np.searchsorted(module, module)) % 4 == 3  # of each module
    train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    tfidf, loss = TfIdf(texts, train), BinaryCrossEntropy()

    def linear(left, right):
        common = texts.common(left, right)
        bags = shared(common, len(left), tfidf.seen(common.ids))
        return bags, bags.sum(ps.pull("weight", rows=bags.ids))[:, 0]

    def side(which):
        lengths, places = texts.take(which)
        bags = Bags(texts.ids[places], lengths)
        return bags, ps.pull("word", rows=bags.ids)

    def matrices():
        return dict(zip(("left", "right"), ps.pull(["left", "right"]), strict=True))

    pairs = Pairs(module, train, [1, ps.index])
    losses = []
    for step in range(1, args.steps + 1):
        left, right, together = pairs.both(args.batch)
        bags, odds = linear(left, right)
        first, cache = loss.forward(odds, together)
        ps.push("weight", bags.sum_back(len(left) * loss.backward(cache)[:, None]), rows=bags.ids)  # FTRL counts each pair as one

        left, right = pairs.together(args.batch)
        a, b = side(left), side(right)
        second, grads, da, db = towers.loss_and_grads(matrices(), a, b)
        ps.push(grads)
        ps.push("word", np.concatenate((da, db)), rows=np.concatenate((a[0].ids, b[0].ids)))  # those of both are added up
        ps.clock()
        losses.append((float(first), second))
        if ps.index == 0 and step % 50 == 0:
            print("step {}  loss: linear {:.4f}, towers {:.4f}".format(step, *np.mean(losses[-50:], 0)), flush=True)

    ps.barrier()  # all have trained
    judge = Pairs(module, test, [2, ps.index])
    out = []
    for _ in range(-(-PAIRS // (2 * args.batch * ps.workers))):
        left, right, together = judge.both(args.batch)
        u, v = (towers.vectors(matrix, side(which)) for matrix, which in zip(matrices().values(), (left, right), strict=True))
        out.append((together, tfidf.cosine(left, right), linear(left, right)[1], (u * v).sum(1)))
    return [np.concatenate(arrays) for arrays in zip(*out, strict=True)]


if __name__ == "__main__":
    with script():
        args = arguments()
        texts, module = documents()
        towers = Towers(dim=args.dim, out=args.dim)
        rule = mpips.optim.Adagrad(lr=0.1)
        hashed = {"rows": None, "capacity": 1 << 21, "staleness": 2}
        tables = [
            mpips.Rows("weight", dim=1, optimizer=mpips.optim.FTRL(lr=0.05, l1=0.1), **hashed),
            mpips.Rows("word", dim=args.dim, optimizer=rule, init=mpips.init.normal(0.1), **hashed),
            *towers.tables(mpips.optim.Adagrad(lr=0.02), staleness=2),
        ]
    results = mpips.run(work, tables, device="cpu")
    if results is not None:  # on worker 0
        together, *scores = (np.concatenate(arrays) for arrays in zip(*results, strict=True))
        print(f"{texts.count} documents of {args.modules} modules, {len(np.unique(texts.ids))} features; "
              f"{len(together)} pairs of documents that were held out")
        for name, score in zip(("cosine of tf-idf", "linear", "towers"), scores, strict=True):
            print(f"{name:<16}  AUC {auc(score, together):.4f}")
