"""The words by which it shows in a file's text that a function matters to a protocol."""

from __future__ import annotations

from mpaudit.source.text.outline import HELD, PRECISION

WORDS: frozenset[str] = frozenset(
    [
        "GradScaler",
        "NativeScaler",
        "autocast",
        "amp",
        "backward",
        *("unscale_", "zero_grad", "step()", "step(...)", "scale()", "scale(...)"),
        "clip_grad_norm_",
        "clip_grad_value_",
        "clip_grad_norm",
        "register_hook",
        "nn.Class",
        "optim.Class",
        "cuda()",
        "cuda(...)",
        "half()",
        "half(...)",
        "softmax",
        "log_softmax",
        "Softmax",
        "LogSoftmax",
        "cross_entropy",
        "CrossEntropyLoss",
        "Sequential",
        "Dense",
        "set_global_policy",
        "set_policy",
        "set_dtype_policy",
        "mixed_precision",
        "LossScaleOptimizer",
        "GradientTape",
        "gradient",
        "apply_gradients",
        "scale_loss",
        "from_logits",
        "get_scaled_loss",
        "nullcontext",
        "suppress",
        "grad",
        "get_scale",
        "enter_context",
        "__enter__()",
        "__exit__(...)",
        "pad(...)",
        "partial",
        "jit",
        "make_graphed_callables",
        "update()",
        "binary_cross_entropy",
        "BCELoss",
        "binary_cross_entropy_with_logits",
        "BCEWithLogitsLoss",
        "sigmoid",
        "Sigmoid",
        "linalg",
        "fft",
        "rfft",
        "stft",
        "cholesky",
        "inverse",
        "logdet",
        "slogdet",
        "quantile",
        "numpy()",
        "float16",
        "bfloat16",
        "masked_fill",
        "masked_fill_",
        "square()",
        "square(...)",
        "pow(...)",
        "mul_(...)",
        "state_dict()",
        "torch.save",
        "manual_backward",
        "clip_gradients",
    ]
) | {HELD}
"""What a function must mention to be followed when it is called."""
SPEAKING = WORDS - {HELD}
"""What it must mention to be followed whatever it is handed."""
BUILDING = SPEAKING - frozenset(
    """backward unscale_ zero_grad step() step(...) update() grad get_scale state_dict() torch.save
    numpy() square() square(...) pow(...) mul_(...) masked_fill masked_fill_ pad(...) jit partial linalg fft
    rfft stft inverse quantile""".split()  # noqa: SIM905
)
"""What it must mention to be followed, from another file, while an object is made that nobody in view made:
what objects are made of, not what is done with numbers and gradients."""
LAYER = "(a layer's call)"
KERAS_WORDS = frozenset(
    [
        "keras",
        "tf_keras",
        "layers",
        "fit",
        "minimize",
        "apply",
        "get_unscaled_gradients",
        "run",
        "clip_by_global_norm",
        "clip_by_norm",
        "clip_by_value",
        "add_weight",
        "reduce_mean",
        "reduce_sum",
        "cast",
        "predict",
        *("where(...)", "maximum(...)", "l2_normalize", "assign_add"),
        *("adapt(...)", "uniform(...)", "normal(...)", "lognormal(...)", "linspace(...)"),
        LAYER,
    ]
)
"""What matters in addition in a file that imports Keras, with all names it imports from there.

LAYER stands for every `call` of a class, which Keras runs, and for the methods beside it.
"""
KERAS_TELLING = frozenset(
    [
        "LossScaleOptimizer",
        "apply_gradients",
        "apply",
        "gradient",
        "minimize",
        "fit",
        "compile",
        "train_on_batch",
        "set_global_policy",
        "set_policy",
        "set_dtype_policy",
    ]
)
STEPS = frozenset(["training_step", "validation_step", "test_step"])
"""What a trainer's library calls: it is entered if it mentions what matters at all."""
ACCELERATE_WORDS = frozenset(["Accelerator", "prepare(...)"])
"""What matters in addition in a file that speaks of Hugging Face's Accelerate."""
OWNERS = frozenset(["lightning", "pytorch_lightning", "lightning_fabric"])
OWNER_WORDS = frozenset(["fit", "grad_norm", "Trainer", "Fabric"])
"""What matters in addition in a file that imports a library which owns the training step."""
TRAINERS = frozenset(["TrainingArguments", "Seq2SeqTrainingArguments", "train()", "train(...)"])
"""What matters in addition in a file that mentions Hugging Face's Trainer or TRL."""
SHARDING = frozenset(["FullyShardedDataParallel", "FSDP"])
"""What matters in addition in a file that shards models."""
ENGINES = frozenset(["deepspeed", "initialize", PRECISION])  # DeepSpeed's
METHODS = frozenset(["__init__", "__call__", "forward", "call", "__enter__", "__exit__"])
"""Methods that are called without being named: their class stands for them."""
TELLING = frozenset(
    [
        "autocast",
        "backward",
        "unscale_",
        "cross_entropy",
        "CrossEntropyLoss",
        "BCEWithLogitsLoss",
        "binary_cross_entropy_with_logits",
        "GradScaler",
        "NativeScaler",
    ]
)
"""What an entry point must mention, itself or in what it calls, to break any protocol."""
