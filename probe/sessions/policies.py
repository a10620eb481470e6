"""Policies: how the questions of a session share its prefix, and which of them a model can honour."""

from __future__ import annotations

from probe.errors import InvalidPolicy
from probe.generation import unsupported_generation_settings
from probe.runtime import Runtime
from probe.sessions.continuations import PACKED
from probe.sessions.masks import is_recurrent, unknown_kinds

NO_SHARING = "none"
"""The policy under which each question is asked alone."""

PLACES_BY_CACHE = "its forward places a token by how many are in the cache"
"""Why sequences of unequal lengths cannot go on together, in families that declare `counts_cached`."""

_MASKED_KERNELS = ("sdpa", "eager")


def offered_policies(runtime: Runtime) -> tuple[tuple[str, ...], str]:
    """The policies that a model can honour, the best first, and why there are not more."""
    settings = unsupported_generation_settings(runtime.model.generation_config)
    if settings and not no_sharing_reason(runtime):
        return (), f"its generation settings have {', '.join(sorted(settings))}, which decoding together does not follow"
    return exact_policies(runtime)


def exact_policies(runtime: Runtime) -> tuple[tuple[str, ...], str]:
    """The policies under which forwards of a model continue a common prefix, the best first, and why there are not more."""
    reason = no_sharing_reason(runtime)
    if reason:
        return (), reason
    declared = runtime.backbone.prefix
    reason = _one_row_reason(runtime) if PACKED in declared else ""
    return (tuple(policy for policy in declared if policy != PACKED), f"not packed: {reason}") if reason else (declared, "")


def _one_row_reason(runtime: Runtime) -> str:
    """Why sequences cannot share a row; "" if they can."""
    if is_recurrent(runtime.model.config):
        return "a recurrent state of its blocks would go on from one question to the next"
    if runtime.backbone.counts_cached:
        return PLACES_BY_CACHE
    return ""


def no_sharing_reason(runtime: Runtime) -> str:
    """Why forwards of a model cannot continue a common prefix; "" if they can."""
    backbone, text = runtime.backbone, runtime.model.config.get_text_config(decoder=True)
    if not backbone.prefix:
        return backbone.no_prefix_reason or "no sharing is declared for its family"
    kernel = text._attn_implementation
    if kernel not in _MASKED_KERNELS:
        return f"the kernel {kernel} takes no mask; load with attn_implementation='sdpa'"
    unknown = unknown_kinds(runtime.model.config)
    # "vision": image tokens alone, all of which are in the prefix, attend to later ones.
    if unknown or getattr(text, "use_bidirectional_attention", False) not in (False, None, "vision"):
        return f"probe cannot build a mask for its decoder's layers of {', '.join(unknown) or 'attention in both directions'}"
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
