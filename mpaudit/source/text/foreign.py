"""Which imports mean a library, and not a file of the program."""

from __future__ import annotations

import sys

_FOREIGN = frozenset(
    [
        "torch",
        "torchvision",
        "torchaudio",
        "numpy",
        "scipy",
        "pandas",
        "sklearn",
        "matplotlib",
        "PIL",
        "cv2",
        "tqdm",
        "tensorflow",
        "keras",
        "tf_keras",
        "transformers",
        "datasets",
        "accelerate",
        "lightning",
        "pytorch_lightning",
        "timm",
        "wandb",
        "apex",
        "deepspeed",
        "einops",
        "yaml",
        "omegaconf",
        "hydra",
    ]
)


def foreign(top: str) -> bool:
    """Whether a package is a library wherever it lies, which nobody looks into."""
    return top in sys.stdlib_module_names or top in _FOREIGN
