#!/usr/bin/python
"""Write the report of a run as JSON and HTML, if it says anything new."""

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
  delegate_to: localhost
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

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.migration.report import build as report


def main() -> None:
    """Build the report, write it if it is new, and return its summary."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "environment_name": {"type": "str", "required": True},
            "host": {"type": "str", "required": True},
            "groups": {"type": "list", "elements": "dict", "required": True},
            "checks": {"type": "list", "elements": "dict", "required": True},
            "database": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    content = report.build(
        parameters["environment_name"],
        parameters["host"],
        parameters["groups"],
        parameters["checks"],
        parameters["database"],
    )
    try:
        written = report.write(Path(parameters["directory"]), content, module.check_mode)
    except OSError as error:
        module.fail_json(
            msg=f"The report cannot be written below {parameters['directory']}: {error.strerror}. "
            "Correct validation_report_directory, or the directory's owner and mode."
        )
    module.exit_json(
        **written,
        status=content["status"],
        findings=content["findings"],
        lines=report.summary_lines(content, written["path"], not (module.check_mode and written["changed"])),
    )


if __name__ == "__main__":
    main()
