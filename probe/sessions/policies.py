"""Policies: how the questions of a session share its prefix, and which of them a model can honour."""

from __future__ import annotations

from probe.errors import InvalidPolicy
from probe.generation import unsupported_generation_settings
from probe.runtime import Runtime
from probe.sessions.batched import Batched
from probe.sessions.continuations import Continuations
from probe.sessions.packed import Packed

NO_SHARING = "none"
"""The policy under which each question is asked alone."""

POLICIES: dict[str, type[Continuations]] = {kind.policy: kind for kind in (Packed, Batched)}

_MASKED_KERNELS = ("sdpa", "eager")


def offered_policies(runtime: Runtime) -> tuple[tuple[str, ...], str]:
    """The policies that a model can honour, the best first, and why there are not more."""
    reason = no_sharing_reason(runtime)
    if reason:
        return (), reason
    settings = unsupported_generation_settings(runtime.model.generation_config)
    if settings:
        return (), f"its generation settings have {', '.join(sorted(settings))}, which decoding together does not follow"
    return runtime.backbone.prefix, ""


def no_sharing_reason(runtime: Runtime) -> str:
    """Why forwards of a model cannot continue a common prefix; "" if they can."""
    if not runtime.backbone.prefix:
        return "no sharing is declared for its family"
    text = runtime.model.config.get_text_config(decoder=True)
    kernel = text._attn_implementation
    if kernel not in _MASKED_KERNELS:
        return f"the kernel {kernel} takes no mask; load with attn_implementation='sdpa'"
    unknown = set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if unknown or getattr(text, "use_bidirectional_attention", False):
        return f"probe cannot build a mask for its decoder's layers of {', '.join(sorted(unknown)) or 'attention in both directions'}"
    return ""


def chosen_policy(runtime: Runtime, policy: str | None) -> str:
    """The policy to use; None: the family's best.

    Raises:
        InvalidPolicy: there is none of this name, or this model cannot honour it; the message says why.
    """
    offered, reason = offered_policies(runtime)
    if policy is None:
        return offered[0] if offered else NO_SHARING
    if policy not in (*offered, NO_SHARING):
        raise InvalidPolicy(
            f"policy={policy!r}: {runtime.family} can be asked under the policies {', '.join((*offered, NO_SHARING))}"
            f"{reason and f' ({reason})'}."
        )
    return policy
