"""Help to write a model as a function of arrays: layers with an explicit backward, losses, a check of gradients.

No autograd: each layer's file states its formulas, and each runs on the arrays that it is given, NumPy or CuPy.

>>> import numpy as np
>>> from mpips import nn, optim
>>> net = nn.Sequential([nn.Dense(32), nn.ReLU(), nn.Dense(10)], input_shape=(64,))
>>> tables = net.tables(optim.SGD(lr=0.1))            # for mpips.run
>>> params = nn.initial(tables, seed=0)               # what a worker would pull
>>> loss, grads = net.loss_and_grads(params, np.ones((5, 64), np.float32), np.arange(5))   # what it would push
>>> grads["0.w"].shape, grads["0.w"].dtype.name
((64, 32), 'float32')

To evaluate, `nn.accuracy(net.predict(params, x), y)`, and a loss alone is `forward`, which returns what `backward` takes as well:

>>> loss, _ = nn.SoftmaxCrossEntropy().forward(net.predict(params, np.ones((5, 64), np.float32)), np.arange(5))

| layers                       | losses                   | tools                              |
|------------------------------|--------------------------|------------------------------------|
| Dense, Flatten               | SoftmaxCrossEntropy, MSE | Sequential, initial, Bags          |
| ReLU, GELU, Tanh, Sigmoid    | BinaryCrossEntropy       | accuracy, auc, gradcheck           |
"""

from __future__ import annotations

from mpips.nn.activations import ACTIVATIONS, GELU, Activation, ReLU, Sigmoid, Tanh
from mpips.nn.bags import Bags
from mpips.nn.dense import Dense
from mpips.nn.flatten import Flatten
from mpips.nn.gradcheck import gradcheck
from mpips.nn.layer import Layer, Param
from mpips.nn.losses import MSE, BinaryCrossEntropy, Loss, SoftmaxCrossEntropy
from mpips.nn.metrics import accuracy, auc
from mpips.nn.sequential import Sequential, initial

__all__ = [
    "ACTIVATIONS",
    "GELU",
    "MSE",
    "Activation",
    "Bags",
    "BinaryCrossEntropy",
    "Dense",
    "Flatten",
    "Layer",
    "Loss",
    "Param",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "SoftmaxCrossEntropy",
    "Tanh",
    "accuracy",
    "auc",
    "gradcheck",
    "initial",
]
