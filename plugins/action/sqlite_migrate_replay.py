"""Runs the module of the same name, in a protected environment only if the gate lets it."""

from __future__ import annotations

from ..plugin_utils.gated import GatedAction as ActionModule

__all__ = ["ActionModule"]
