"""How a value changes: optimizers, learning-rate schedules, clipping, and the fold that applies them.

| rule       | slots          | formula; g has been summed, scaled, clipped                   | source                   |
|------------|----------------|---------------------------------------------------------------|--------------------------|
| SGD        |                | w -= lr g                                                     | Robbins and Monro 1951   |
| Momentum   | momentum       | m = mu m + g; w -= lr m                                       | Polyak 1964              |
| Nesterov   | momentum       | m = mu m + g; w -= lr (g + mu m)                              | Sutskever et al. 2013    |
| Adagrad    | accumulator    | a += g^2; w -= lr g / (sqrt(a) + eps)                         | Duchi et al. 2011        |
| RowAdagrad | accumulator    | as Adagrad, but a += mean over the row of g^2: one a per row  | Gupta et al. 2014        |
| RMSProp    | v              | v = mean(g^2); w -= lr g / (sqrt(v) + eps)                    | Tieleman and Hinton 2012 |
| Adadelta   | v, accumulator | d = sqrt(a + eps) / sqrt(v + eps) g; a = mean(d^2); w -= lr d | Zeiler 2012              |
| Adam       | m, v           | m = mean(g); v = mean(g^2); w -= lr m' / (sqrt(v') + eps)     | Kingma and Ba 2015       |
| AdamW      | m, v           | Adam, after w *= 1 - lr weight_decay                          | Loshchilov, Hutter 2019  |
| AMSGrad    | m, v, vmax     | Adam with the largest v so far                                | Reddi et al. 2018        |
| Lion       | m              | w = (1 - lr weight_decay) w - lr sign(b1 m + (1 - b1) g)      | Chen et al. 2023         |
| FTRL       | z, n           | w = soft(-z, l1) / ((beta + sqrt(n)) / lr + l2)               | McMahan et al. 2013      |
| Add        |                | w += g                                                        |                          |

mean() is the rule's running mean, ' its correction for the start from 0, mu the argument `momentum`. Slots start at
0. Where PyTorch has the rule, the results are PyTorch's (tests hold that) and so are the defaults, but for lr: that
is yours to set. All rules take `weight_decay` (L2; AdamW and Lion decay apart from the gradient), `clip` (of the
gradient) and `bounds` (of the weights). RowAdagrad is for tables of rows alone, see `RowFold`. `lr` may be a
schedule, see `mpips.optim.schedules`. `clip_by_norm` is for workers: it scales all their gradients down to a norm,
before they push them.

>>> from mpips import optim
>>> optim.SGD(lr=optim.Cosine(0.1, clocks=100), clip=1.0).rate(50)
0.05
"""

from mpips.optim.adagrad import Adadelta, Adagrad, RMSProp, RowAdagrad
from mpips.optim.adam import Adam, AdamW, AMSGrad
from mpips.optim.base import Optimizer, Schedule
from mpips.optim.clip import clip_by_norm
from mpips.optim.engine import ENGINES
from mpips.optim.fold import Fold
from mpips.optim.ftrl import FTRL
from mpips.optim.lion import Lion
from mpips.optim.registry import OPTIMIZERS, SCHEDULES, make, make_schedule
from mpips.optim.rows import RowFold
from mpips.optim.schedules import Constant, Cosine, Exponential, InverseSqrt, OneCycle, Polynomial, Step, Warmup
from mpips.optim.sgd import SGD, Add, Momentum, Nesterov

__all__ = [
    "ENGINES", "FTRL", "OPTIMIZERS", "SCHEDULES", "SGD", "AMSGrad", "Adadelta", "Adagrad", "Adam", "AdamW", "Add",
    "Constant", "Cosine", "Exponential", "Fold", "InverseSqrt", "Lion", "Momentum", "Nesterov", "OneCycle", "Optimizer",
    "Polynomial", "RMSProp", "RowAdagrad", "RowFold", "Schedule", "Step", "Warmup", "clip_by_norm", "make", "make_schedule",
]
