"""A hub of models without a net: a cache as `transformers` keeps one, with small models under known names."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path

_KINDS = {"gpt2": "gpt2", "facebook/opt-125m": "opt", "bert-base-uncased": "bert"}
_SMALL = {"vocab_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16}
_FURTHER = {"opt": {"ffn_dim": 32, "word_embed_proj_dim": 16}}


def offline() -> None:
    """Point this process and its children at such a cache, and at no net."""
    if importlib.util.find_spec("transformers") is None:
        return
    cache = Path(tempfile.mkdtemp(prefix="executed-hub-"))
    os.environ.update(HF_HUB_CACHE=str(cache), HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    for name, kind in _KINDS.items():
        model = AutoModelForSequenceClassification if kind == "bert" else AutoModelForCausalLM
        folder = cache / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        config = AutoConfig.for_model(kind, **_SMALL, **_FURTHER.get(kind, {}))
        model.from_config(config).save_pretrained(folder / "snapshots" / ("0" * 40))
