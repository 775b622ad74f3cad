"""What to do about own autograd functions that autocast breaks: shown, never applied."""

from __future__ import annotations

from mpaudit.fix import Fix, Safety
from mpaudit.source.repair.registry import Context, repairs


def suggested(flaw: str) -> Fix:
    """The repair in words; the device and the dtype wanted are the author's to say."""
    if flaw == "recomputes":
        message = (
            "Use `torch.utils.checkpoint.checkpoint(..., use_reentrant=False)`, or put `custom_fwd` and "
            "`custom_bwd` of torch.amp on the two methods"
        )
    else:
        message = (
            'Put `@torch.amp.custom_fwd(device_type="cuda")` on `forward` and '
            '`@torch.amp.custom_bwd(device_type="cuda")` on `backward`, below `@staticmethod`'
        )
    return Fix(message, (), Safety.SUGGESTION)


@repairs("unprotected-autograd-function")
def guard_both(_: Context) -> Fix:
    """`custom_fwd` and `custom_bwd`."""
    return suggested("products")


@repairs("checkpoint-drops-autocast")
def restore_region(_: Context) -> Fix:
    """PyTorch's own checkpoint."""
    return suggested("recomputes")
