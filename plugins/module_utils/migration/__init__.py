"""The engine and the ledger: plain Python without Ansible in it, one package for each concern, one file for each step.

It runs on the service host with the distribution's own Python (3.11 or later) and psycopg2.
Imports inside this package are relative, so that it runs the same under Ansible, under pytest and as a program of its
own. Which package may import which stands in :data:`MAY_IMPORT` of
``tests/core/test_layout.py``.
"""
