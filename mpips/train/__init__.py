"""A trainer over the public verbs: configuration, data, the loop, progress and metrics.

`mpips.fit(...)` and `mpips train FILE.toml` are this room; it uses nothing of the package that a user's script cannot.

| file       | idea                                                              |
|------------|-------------------------------------------------------------------|
| `config`   | what a TOML file and the keywords of `fit` may say                |
| `data`     | sources, what is held out, and which samples a worker takes       |
| `setup`    | from a configuration to model, tables and checkpoints, all checked |
| `resume`   | that a checkpoint is of this training, and how far it is          |
| `start`    | errors before `run`, told once by all ranks                       |
| `fit`      | the loop                                                          |
| `early`, `late` | pushes while the backward pass goes on, pulls while the forward pass does |
| `watch`    | what a rank tells while it runs, by `progress` and `metrics`      |
| `evaluate` | accuracy, cross-entropy, mean squared error                       |
| `predict`  | predictions from a checkpoint                                     |
| `options`, `text`, `interactions`, `ratings`, `identifiers` | for scripts: options, words, who has what, files |
"""

from __future__ import annotations

from mpips.train.config import Config
from mpips.train.data import Data, Order, Source, load, source
from mpips.train.fit import Report, fit
from mpips.train.predict import Predictor, predictor

__all__ = ["Config", "Data", "Order", "Predictor", "Report", "Source", "fit", "load", "predictor", "source"]
