"""Which framework a run is of."""

from __future__ import annotations

from typing import Any

from mpaudit.runtime.claim import Claims


def test_the_framework_that_is_used_first_counts() -> None:
    facts: dict[str, Any] = {}
    claims = Claims(facts.__setitem__)
    claims.claim("torch", sampling={"every": 10})
    claims.claim("keras", sampling={"every": 5})
    assert facts == {"framework": "keras", "sampling": {"every": 5}}
    claims.used("torch")
    claims.used("keras")
    claims.claim("keras", sampling={"every": 3})
    assert facts == {"framework": "torch", "sampling": {"every": 10}}
