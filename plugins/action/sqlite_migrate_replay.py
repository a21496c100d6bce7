"""Runs the module of the same name, in a protected environment only if the gate lets it."""

from __future__ import annotations

from ..plugin_utils.gated import GatedAction


class ActionModule(GatedAction):
    """The module's own action behind the gate."""

    # A person has named each row.
    NEEDS_PLAN = False
