#!/usr/bin/env bash
# torch 2.13.0, CPU: an optimiser with fused=True pairs parameters and gradients by their place in memory, not by index.
#
# A gradient that was assigned in another memory order than its parameter (channels_last beside contiguous, as a convolution
# on channels-last images or a hand-written backward gives it) steps the wrong numbers: no error, no warning. The default
# (fused=False) steps the right ones; on CUDA, by pytorch's issue 110758 and not tried here, a fused step refuses such a pair
# in words. loss.backward() alone is safe: autograd brings what it accumulates into the parameter's order. Whoever sets
# .grad must do the same: parameter.grad = torch.empty_like(parameter).copy_(gradient).
#
# Seen: largest difference of two steps from the same numbers (step length 0.1):
#   Adam 0.2, AdamW 0.2, SGD about 0.33, Adagrad 0.2 in channels_last; 6e-8 or less in the parameter's order.
# This script fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.3.5"
cat > "$folder/steps.py" <<'PYTHON'
import torch

ORDERS = {"the parameter's order": torch.contiguous_format, "channels_last": torch.channels_last}


def step(kind, fused, order):
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(4, 3, 2, 2))
    parameter.grad = torch.randn(4, 3, 2, 2).contiguous(memory_format=order)
    kind([parameter], lr=0.1, fused=fused).step()
    return parameter.detach()


print("torch", torch.__version__)
changed = []
for kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad):
    for name, order in ORDERS.items():
        difference = float((step(kind, True, order) - step(kind, False, order)).abs().max())
        print(f"{kind.__name__:8} gradient in {name:22} largest difference, fused against plain: {difference:.2g}")
        if (difference > 0.05) != (name == "channels_last"):
            changed.append(kind.__name__)
raise SystemExit(f"no longer so: {', '.join(changed)}" if changed else 0)
PYTHON
"$folder/venv/bin/python" "$folder/steps.py"
