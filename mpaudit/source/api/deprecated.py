"""The device-specific AMP names of PyTorch, and what takes their place.

Each one warns when it is called with torch 2.4 or newer: the classes and decorators with a
FutureWarning, the functions of `torch` itself with a DeprecationWarning (seen with torch 2.13; no
other name of these modules warns). `needs` was read from the wheels: torch.amp came with 1.12, its
GradScaler with 2.3, custom_fwd and the functions that take a device with 2.4.
"""

from __future__ import annotations

from msgspec import Struct

SINCE = (2, 4)

_AUTOCAST = ("enabled", "dtype", "cache_enabled")
_SCALER = ("init_scale", "growth_factor", "backoff_factor", "growth_interval", "enabled")


class Api(Struct, frozen=True):
    """One deprecated name.

    `keyword` says that its successor takes the device as `device_type=` and not first; `parameters`
    are the positional ones of the old signature, None where the successor keeps their order;
    `needs` is the first torch (major, minor) that has the successor.
    """

    old: str
    new: str
    device: str
    needs: tuple[int, int]
    parameters: tuple[str, ...] | None = None
    keyword: bool = False

    @property
    def short(self) -> str:
        """The last part of the old name."""
        return self.old.rpartition(".")[2]

    @property
    def is_autocast(self) -> bool:
        """Whether it is one of the two context managers."""
        return self.short == "autocast"

    @property
    def is_scaler(self) -> bool:
        """Whether it is one of the two gradient scalers."""
        return self.short == "GradScaler"

    @property
    def advice(self) -> str:
        """How the successor is written."""
        argument = f'device_type="{self.device}"' if self.keyword else f'"{self.device}"'
        more = ", dtype" if self.short.startswith("set_") and self.short.endswith("dtype") else ""
        more = ", enabled" if self.short.startswith("set_") and not more else more
        return f"{self.new}({argument}{more})"


def _all() -> dict[str, Api]:
    found: dict[str, Api] = {}
    for device in ("cuda", "cpu"):
        old = f"torch.{device}.amp"
        autocast = Api(f"{old}.autocast", "torch.amp.autocast", device, (1, 12), _AUTOCAST)
        scaler = Api(f"{old}.GradScaler", "torch.amp.GradScaler", device, (2, 3), _SCALER)
        found[autocast.old] = found[f"{old}.autocast_mode.autocast"] = autocast
        found[scaler.old] = found[f"{old}.grad_scaler.GradScaler"] = scaler
    for name in ("custom_fwd", "custom_bwd"):
        api = Api(f"torch.cuda.amp.{name}", f"torch.amp.{name}", "cuda", SINCE, keyword=True)
        found[api.old] = found[f"torch.cuda.amp.autocast_mode.{name}"] = api
    for word, device in (("gpu", "cuda"), ("cpu", "cpu"), ("xla", "xla"), ("ipu", "ipu")):
        pairs = {
            f"get_autocast_{word}_dtype": "get_autocast_dtype",
            f"set_autocast_{word}_dtype": "set_autocast_dtype",
            f"is_autocast_{word}_enabled": "is_autocast_enabled",
            f"set_autocast_{word}_enabled": "set_autocast_enabled",
        }
        for before, after in pairs.items():
            if "gpu_enabled" not in before:  # there is none: the plain name means the GPU
                api = Api(f"torch.{before}", f"torch.{after}", device, SINCE)
                found[api.old] = api
    return found


DEPRECATED: dict[str, Api] = _all()
"""Every qualified name that is deprecated; some stand for the same thing."""

MODULES: dict[str, str] = {
    f"torch.{device}.amp{part}": f"torch.amp{part}"
    for device in ("cuda", "cpu")
    for part in ("", ".autocast_mode", ".grad_scaler")
}
"""The modules that hold them, and the module that takes their place."""

STARS: dict[str, tuple[str, ...]] = {
    "torch.cuda.amp": ("GradScaler", "autocast", "custom_bwd", "custom_fwd"),
    "torch.cpu.amp": ("GradScaler", "autocast"),
    "torch.amp": ("GradScaler", "autocast", "custom_bwd", "custom_fwd"),
}
"""What `from module import *` brings, of the old modules and of the new one."""
