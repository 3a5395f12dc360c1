"""Errors that are looked for on the device, and when the host asks about them.

Pruning on a GPU finds NaN in a pass that the host does not wait for; nothing is written where one was found. The host
asks once, after the launches: that is the one place where it waits. Inside `deferred_checks()` it asks at the end of
the block, for all calls at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_pending: ContextVar[list[Callable[[], None]] | None] = ContextVar("pending checks", default=None)


@contextmanager
def deferred_checks() -> Iterator[None]:
    """Put off the error checks of all pruning on GPUs inside this block to its end.

    Until then no call waits for the device. A weight that holds NaN stays as it was, and what was returned for it
    means nothing; the others are pruned. At the end the first error, in the order of the calls, is raised; each is
    asked for on the device and stream of its call. When the block itself raises, nothing is checked. The weights are
    kept alive until then. Arrays in this machine's memory are checked at once, as always.

    Raises:
        NonFiniteWeight, NonFiniteScore: at the end of the block.
    """
    checks: list[Callable[[], None]] = []
    token = _pending.set(checks)
    try:
        yield
    finally:
        _pending.reset(token)
    for check in checks:
        check()


@contextmanager
def checks_at_once() -> Iterator[None]:
    """Inside, checks are made when they are asked for, also in a block of `deferred_checks`."""
    token = _pending.set(None)
    try:
        yield
    finally:
        _pending.reset(token)


def check_later(check: Callable[[], None]) -> None:
    """Call `check`, which may wait for the device, now or at the end of the block of `deferred_checks`."""
    checks = _pending.get()
    if checks is None:
        check()
    else:
        checks.append(check)
