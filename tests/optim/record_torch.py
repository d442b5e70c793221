"""Record PyTorch's numbers for the rules that it has too.

Run by hand, in an environment with PyTorch, when a rule or a case is added: `python record_torch.py`. The tests read
the JSON that this writes beside itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found, unused-ignore]

PARAMS, STEPS = 5, 12

# our name, our options; everything not named is our default, which is to be PyTorch's
CASES: list[tuple[str, dict[str, float]]] = [
    ("sgd", {"lr": 0.1}),
    ("sgd", {"lr": 0.05, "weight_decay": 0.1}),
    ("momentum", {"lr": 0.05}),
    ("momentum", {"lr": 0.02, "momentum": 0.5, "weight_decay": 0.01}),
    ("nesterov", {"lr": 0.05}),
    ("nesterov", {"lr": 0.02, "momentum": 0.7, "weight_decay": 0.02}),
    ("adagrad", {"lr": 0.1}),
    ("adagrad", {"lr": 0.3, "eps": 1e-3, "initial_accumulator": 0.1, "weight_decay": 0.05}),
    ("rmsprop", {"lr": 0.01}),
    ("rmsprop", {"lr": 0.05, "rho": 0.9, "eps": 1e-4, "weight_decay": 0.03}),
    ("adadelta", {}),
    ("adadelta", {"lr": 0.5, "rho": 0.8, "eps": 1e-4, "weight_decay": 0.1}),
    ("adam", {"lr": 0.001}),
    ("adam", {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
    ("adamw", {"lr": 0.001}),
    ("adamw", {"lr": 0.1, "beta1": 0.8, "beta2": 0.95, "eps": 1e-6, "weight_decay": 0.2}),
    ("amsgrad", {"lr": 0.001}),
    ("amsgrad", {"lr": 0.1, "beta1": 0.7, "beta2": 0.6, "eps": 1e-4, "weight_decay": 0.01}),
]


def optimizer(name: str, options: dict[str, float], w: torch.Tensor) -> torch.optim.Optimizer:
    """Return PyTorch's optimizer for one of ours."""
    o: dict[str, Any] = dict(options)
    if name.startswith("ad") or name == "amsgrad":
        if "beta1" in o:
            o["betas"] = (o.pop("beta1"), o.pop("beta2"))
        if "initial_accumulator" in o:
            o["initial_accumulator_value"] = o.pop("initial_accumulator")
    kinds = {"adagrad": torch.optim.Adagrad, "adadelta": torch.optim.Adadelta, "adam": torch.optim.Adam,
             "adamw": torch.optim.AdamW}
    if name in kinds:
        return kinds[name]([w], **o)
    if name == "amsgrad":
        return torch.optim.Adam([w], amsgrad=True, **o)
    if name == "rmsprop":
        if "rho" in o:
            o["alpha"] = o.pop("rho")
        return torch.optim.RMSprop([w], **o)
    momentum = 0.0 if name == "sgd" else o.pop("momentum", 0.9)
    return torch.optim.SGD([w], momentum=momentum, nesterov=name == "nesterov", **o)


def main() -> None:
    random = torch.Generator().manual_seed(11)
    start = torch.randn(PARAMS, dtype=torch.float64, generator=random)
    grads = torch.randn(STEPS, PARAMS, dtype=torch.float64, generator=random)
    grads[3, 1] = grads[4, 2] = grads[7, 0] = 0.0
    out = []
    for name, options in CASES:
        w = start.clone().requires_grad_()
        opt = optimizer(name, options, w)
        values = []
        for g in grads:
            w.grad = g.clone()
            opt.step()
            values.append(w.detach().tolist())
        out.append({"optimizer": name, "options": options, "values": values})
    text = json.dumps({"torch": torch.__version__, "start": start.tolist(), "grads": grads.tolist(), "cases": out})
    Path(__file__).with_name("torch_reference.json").write_text(text.replace("}, {", "},\n{") + "\n")


if __name__ == "__main__":
    main()
