#!/usr/bin/python
"""Ansible module: run the functional checks of an estate through HTTP."""

from __future__ import annotations

DOCUMENTATION = r"""
module: http_checks
short_description: Run functional checks through HTTP
description:
  - Plays what a user does with the services - log in, register an agent, run a workflow - and compares each answer
    with what is expected.
  - A check whose values are missing is reported as not run, with the reason. A check that fails does not fail the
    task, so that all of them run; the caller decides.
attributes:
  check_mode:
    description: Sends no request, because most checks create a row and delete it; says so for each check.
    support: full
options:
  checks:
    description: The checks, in order.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: What the user does, as a short sentence.
        type: str
        required: true
      steps:
        description: The requests of the check, in order. The first that fails ends it.
        type: list
        elements: dict
        required: true
        suboptions: &step
          name:
            description: What the request does.
            type: str
            required: true
          method:
            description: HTTP method.
            type: str
            default: GET
            choices: [GET, HEAD, POST, PUT, PATCH, DELETE]
          url:
            description: Address, as seen from the service host. C(${name}) stands for a saved value or a secret.
            type: str
            required: true
          headers:
            description: Further headers of the request.
            type: dict
          body:
            description: Body, sent as JSON.
            type: raw
          expected_status:
            description: Every status that counts as success.
            type: list
            elements: int
            default: [200]
          expected_json:
            description: JSON that the answer must contain. Objects may have more keys, lists more elements.
            type: raw
          expected_not_empty:
            description: Paths such as V(totals.agents) that must be there and be neither null, zero nor empty.
            type: list
            elements: str
          save:
            description: Values to keep for later steps, as name and path in the answer.
            type: dict
          timeout:
            description: Longest wait for the answer, in seconds.
            type: float
            default: 10
      cleanup:
        description: Requests that run after the steps whether these passed or not, and leave no row behind.
        type: list
        elements: dict
        suboptions: *step
  secrets:
    description: Values for placeholders that may appear in no output, such as the password of the login.
    type: dict
    default: {}
author: The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Run the functional checks
  swarm.sqlite_to_postgresql.http_checks:
    checks:
      - name: Agent registration works
        steps:
          - name: Register an agent
            method: POST
            url: http://127.0.0.1:4001/agents
            body: {name: "check-${run_token}", version: 1.0.0}
            expected_status: [201]
            save: {agent_id: id}
        cleanup:
          - name: Delete the agent
            method: DELETE
            url: http://127.0.0.1:4001/agents/${agent_id}
            expected_status: [200, 204]
"""

RETURN = r"""
results:
  description: The result of each check.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the check.
      type: str
    result:
      description: V(passed), V(failed) or V(not run).
      type: str
    reason:
      description: Why it failed or was not run.
      type: str
    seconds:
      description: How long its requests took.
      type: float
    steps:
      description: The requests that were answered as expected.
      type: list
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.migration.validation import functional_checks

STEP: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "method": {"type": "str", "default": "GET", "choices": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]},
    "url": {"type": "str", "required": True},
    "headers": {"type": "dict"},
    "body": {"type": "raw"},
    "expected_status": {"type": "list", "elements": "int", "default": [200]},
    "expected_json": {"type": "raw"},
    "expected_not_empty": {"type": "list", "elements": "str"},
    "save": {"type": "dict"},
    "timeout": {"type": "float", "default": 10},
}
CHECK: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "steps": {"type": "list", "elements": "dict", "required": True, "options": STEP},
    "cleanup": {"type": "list", "elements": "dict", "options": STEP},
}


def main() -> None:
    """Run every check and return the results."""
    module = AnsibleModule(
        argument_spec={
            "checks": {"type": "list", "elements": "dict", "required": True, "options": CHECK},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    checks = functional_checks.parse(module.params["checks"])
    if module.check_mode:
        results = functional_checks.explain(checks, "check mode sends no request")
    else:
        results = functional_checks.run(checks, module.params["secrets"])
    module.exit_json(changed=False, results=results)


if __name__ == "__main__":
    main()
