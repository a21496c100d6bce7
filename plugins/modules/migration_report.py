#!/usr/bin/python
"""Documentation of the action plugin migration_report, which does all the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: migration_report
short_description: Write the report of a run as JSON and HTML
description:
  - Runs on the controller and writes C(report.json) and C(report.html) into a directory named for the time in UTC,
    to which the symlink C(latest) leads.
  - A report that differs from the latest one in nothing but the times of the run is not written again.
options:
  directory:
    description: Directory of the reports of this environment. It is created.
    type: path
    required: true
  environment_name:
    description: The environment, such as V(dev).
    type: str
    required: true
  host:
    description: The host that was validated.
    type: str
    required: true
  groups:
    description: The results of M(swarm.sqlite_to_postgresql.validate_group), in the order of the cutover.
    type: list
    elements: dict
    required: true
  checks:
    description: The results of M(swarm.sqlite_to_postgresql.http_checks).
    type: list
    elements: dict
    required: true
  database:
    description: The result of M(swarm.sqlite_to_postgresql.validate_database).
    type: dict
    required: true
attributes:
  check_mode:
    description: Says whether a new report would be written, writes nothing. Functional checks are taken from the
      latest report, because check mode does not run them.
    support: full
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Write the report
  swarm.sqlite_to_postgresql.migration_report:
    directory: "{{ playbook_dir }}/../reports/dev"
    environment_name: dev
    host: swarm-dev
    groups: "{{ comparisons }}"
    checks: "{{ checks.results }}"
    database: "{{ server.validation }}"
"""

RETURN = r"""
path:
  description: Directory of the report that holds now, or that would be written.
  returned: success
  type: str
status:
  description: V(passed), V(failed), or V(incomplete) if something was not compared or not run.
  returned: success
  type: str
findings:
  description: Everything that is wrong, as where, what and fix.
  returned: success
  type: list
  elements: dict
lines:
  description: The summary for the terminal.
  returned: success
  type: list
  elements: str
"""
