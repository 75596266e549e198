"""Made weights for the Inception network, and the outputs that torch-fidelity's network has with them.

    python tests/metrics/inception_golden.py    writes tests/metrics/inception_golden.npz

needs torch-fidelity (and torchvision, which it imports) in an environment of its own; the tests read the file only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).with_suffix(".npz")


def made_weights(network: nn.Module) -> dict[str, Tensor]:
    """A state dict that keeps activations in range at every depth, from a fixed seed, in the order of its names."""
    rng, found = np.random.RandomState(20151205), {}
    for name, tensor in sorted(network.state_dict().items()):
        shape = tuple(tensor.shape)
        if name.endswith("num_batches_tracked"):
            values = np.zeros(shape)
        elif name.endswith("conv.weight"):
            values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith(("bn.weight", "bn.running_var")):
            values = rng.uniform(0.5, 1.5, shape)
        elif name.startswith("fc."):
            values = rng.standard_normal(shape) * 0.02
        else:
            values = rng.standard_normal(shape) * 0.2
        found[name] = torch.from_numpy(np.asarray(values, dtype=np.float32)).to(tensor.dtype)
    return found


def made_images() -> Tensor:
    """uint8 [2, 3, 64, 64]: smooth colours with a sharp square."""
    grid = np.stack(np.meshgrid(np.arange(64), np.arange(64)))
    images = np.stack([np.stack([(a * grid[0] + b * grid[1]) % 256 for a, b in ((3, 1), (1, 2), (2, 3))])] * 2)
    images[1, :, 20:40, 10:50] = 250
    return torch.from_numpy(images.astype(np.uint8))


def main() -> None:
    import torch_fidelity.feature_extractor_inceptionv3 as theirs

    from eg3d.metrics.inception import Inception

    with torch.device("meta"):
        shapes = Inception()
    weights = made_weights(shapes)
    theirs.load_state_dict_from_url = lambda *args, **kwargs: weights
    network = theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"]).eval()
    with torch.no_grad():
        features, logits = network(made_images())
    np.savez_compressed(GOLDEN, features=features.numpy(), probabilities=logits.softmax(1).numpy())
    print(f"written: {GOLDEN}")


if __name__ == "__main__":
    main()
