"""What the commands that make keys let one say of a key: its limits, and the models that it may call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bitmesh_proxy.cli.moments import AHEAD, BUDGET, show_moment
from bitmesh_proxy.settings import Settings

if TYPE_CHECKING:
    from bitmesh_proxy.cli.known_models import KnownModels

F = TypeVar("F", bound=Callable[..., Any])

#: More would be no limit, and far more than this the books cannot hold.
COUNT = click.IntRange(0, 1_000_000_000)


class ModelName(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5 only
    """A model's id or alias; whether there is such a one, the catalogue says later."""

    name = "MODEL"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Anything but nothing."""
        return value if value.strip() else self.fail("a model has a name (see: bitmesh-proxy model list)", param, ctx)


MODEL = ModelName()

_LIMIT_OPTIONS = (
    click.option(
        "--bound-model",
        type=MODEL,
        help="The only model that it may call; requests need not name it (in Bitmesh's dialect they must not).",
    ),
    click.option(
        "--allow-model",
        "allowed_models",
        type=MODEL,
        multiple=True,
        help="A model that it may call; may be repeated. Default: any.",
    ),
    click.option(
        "--rate-per-minute",
        type=COUNT,
        help="Requests per minute; 0: no limit. Default: limits.key_per_minute.",
    ),
    click.option(
        "--max-concurrent",
        type=COUNT,
        help="Calls under way at once; 0: no limit. Default: limits.key_max_concurrent.",
    ),
    click.option(
        "--budget-day",
        "budget_day_nano_usd",
        type=BUDGET,
        help="US dollars that it may spend per UTC day. Default: no limit.",
    ),
    click.option(
        "--budget-month",
        "budget_month_nano_usd",
        type=BUDGET,
        help="US dollars that it may spend per UTC month. Default: no limit.",
    ),
    click.option(
        "--expires",
        "expires_at_s",
        type=AHEAD,
        help="When it expires: 2026-12-31 (UTC), or 30d, 12h from now. Default: never.",
    ),
)


def limit_options(function: F) -> F:
    """The options that become fields of a ``KeySpec``: ``bound_model``, ``allowed_models``, ``rate_per_minute``,
    ``max_concurrent``, ``budget_day_nano_usd``, ``budget_month_nano_usd`` and ``expires_at_s``."""
    for option in reversed(_LIMIT_OPTIONS):
        function = option(function)
    return function


def check_expiry(expires_at_s: float | None) -> None:
    """Raises BadParameter for a moment that is over."""
    if expires_at_s is not None and expires_at_s <= time.time():
        raise click.BadParameter(
            f"{show_moment(expires_at_s)} is over: the key would never work", param_hint="--expires"
        )


def names_in(bound_model: str | None, allowed_models: Sequence[str] | None) -> list[str]:
    """The models that are named."""
    return [*([] if bound_model is None else [bound_model]), *(allowed_models or ())]


def known_models(settings: Settings, named: Sequence[str]) -> KnownModels | None:
    """What is known of models, if a command names any."""
    if not named:
        return None
    # Most commands on keys need nothing of the catalogue, which takes a while to load.
    from bitmesh_proxy.cli.known_models import KnownModels

    return KnownModels(settings, named)
