"""The report: its verdict, its HTML, and when a new one is written."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import re
import subprocess
from contextlib import closing
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import commands, state
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import Problem
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.report import build as report
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.promotion import gate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils import report_files
from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils.report_page import render, with_commands
from tests.conftest import PROJECT, fresh_database, migrator_of

from .support import make_estate

if TYPE_CHECKING:
    from tests.conftest import Server

PASSED_CHECK = {"name": "Agent registration works", "result": "passed", "reason": "", "seconds": 0.01, "steps": []}
VOID = {"meta", "br", "input"}


class Page(HTMLParser):
    """Reads a page strictly: every element is closed in its order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element that closes itself."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Close an element."""
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note the words."""
        self.words.append(data)

    @property
    def text(self) -> str:
        """Return all words of the page."""
        return " ".join(self.words)


@pytest.fixture(scope="module")
def validated(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The validation of a group that was really cut over."""
    with fresh_database(server) as name, closing(connect(migrator_of(server, name))) as connection:
        estate = make_estate(connection, tmp_path_factory.mktemp("estate"))
        estate.on_source("INSERT INTO pets VALUES (4, 'nobody', '<script>alert(1)</script> & \"co\"')")
        estate.cut_over(downtime_seconds=2.5)
        return estate.validate()


@pytest.fixture
def live(validated: dict[str, Any]) -> dict[str, Any]:
    """Return that validation, which the test may change."""
    return copy.deepcopy(validated)


def build(*groups: dict[str, Any], checks: tuple[dict[str, Any], ...] = (PASSED_CHECK,)) -> dict[str, Any]:
    """Return a report of one environment."""
    built: dict[str, Any] = report.build("dev", "swarm-dev", groups, checks, DATABASE)
    return built


def changed(original: dict[str, Any], **values: Any) -> dict[str, Any]:
    """Return a group with some values changed."""
    return {**copy.deepcopy(original), **values}


DATABASE: dict[str, Any] = {
    "findings": [],
    "information": ["The newest backup that was proven to restore: backup b1"],
    "server": {"version": "16.4", "settings": [{"name": "fsync", "value": "on", "note": ""}]},
    "drift": [],
    "privileges": {"roles": {"zoo_web": ["app"]}},
    "backup": {},
}
FINDING = {"where": "zoo: pets", "what": "the two sides differ", "fix": "Do not go on"}


def test_headline_when_everything_arrived(live: dict[str, Any]) -> None:
    built = build(live)
    assert (built["status"], built["headline"]) == ("passed", "Every value arrived")
    assert "2 of 2 tables equal" in built["summary"][1]
    assert built["totals"]["downtime_seconds"] == 2.5
    assert any("rollback.yml" in step for step in built["next_steps"])


def test_the_rollback_is_offered_with_the_rows_written_since(live: dict[str, Any]) -> None:
    table = {**live["tables"][0], "written_since": True}
    steps = "\n".join(build(live, changed(live, group="farm", tables=[table]))["next_steps"])
    assert "rollback.yml -l dev -e service_env_rollback_groups=zoo\n" in steps
    assert "since the cutover: farm. These rows go back too:" in steps
    assert "rollback.yml -l dev -e service_env_rollback_groups=farm (with --check" in steps


def test_every_command_of_the_report_names_the_hosts_of_the_run(live: dict[str, Any]) -> None:
    pending = changed(live, group="farm", state="pending", next_step=state.advice("pending", "farm"))
    failed = {"name": "Login", "result": "failed", "reason": "500", "seconds": 0, "steps": []}
    built = build(live, pending, checks=(failed,))
    for told in (json.dumps(built), render(built), "\n".join(report.summary_lines(built, "reports"))):
        assert len(re.findall(r"playbooks/\w+\.yml -l dev\b", told)) >= 4
        assert re.findall(r"playbooks/\w+\.yml(?! -l dev\b).*", told) == []


def test_what_was_written_since_the_cutover_is_counted(live: dict[str, Any]) -> None:
    written = {"written_since": True, "written_rows": {"added": 2, "changed": 0, "gone": 1}}
    built = build(changed(live, tables=[{**live["tables"][0], **written}, live["tables"][1]]))
    assert built["status"] == "passed"
    assert "Rows written to PostgreSQL since the cutover: 2 added, 0 changed, 1 gone" in "\n".join(built["summary"])
    assert "2 added, 1 gone" in Page(render(built)).text


def test_what_all_groups_share_is_in_the_report(live: dict[str, Any]) -> None:
    health = [{"name": "zoo-web", "health_url": "http://127.0.0.1:4999/health", "shortcoming": "it is <asleep>"}]
    built = build(changed(live, service_health=health))
    text = Page(render(built)).text
    for part in ("backup b1", "zoo_web (app)", "as the applied SQL files left them", "16.4", "it is <asleep>"):
        assert part in text


def test_a_finding_about_the_server_fails_the_report(live: dict[str, Any]) -> None:
    built = report.build("dev", "swarm-dev", [live], [PASSED_CHECK], {**DATABASE, "findings": [FINDING]})
    assert (built["status"], built["findings"]) == ("failed", [FINDING])


@pytest.mark.promise("report-says-what-is-new")
def test_headline_with_a_finding(live: dict[str, Any]) -> None:
    built = build(changed(live, findings=[FINDING]))
    assert (built["status"], built["headline"]) == ("failed", "Validation failed: 1 finding")
    assert built["next_steps"][0] == "zoo: pets: Do not go on"


def test_headline_with_rejected_rows(live: dict[str, Any]) -> None:
    built = build(changed(live, rejects={"total": 3, "rows": []}))
    assert built["headline"] == "Every value arrived, except 3 rows that a policy of the inventory rejected"


def test_a_check_that_failed_is_a_finding(live: dict[str, Any]) -> None:
    built = build(live, checks=({**PASSED_CHECK, "result": "failed", "reason": "no answer"},))
    assert built["status"] == "failed"
    assert "no answer" in built["findings"][0]["what"]


@pytest.mark.promise("functional-checks-honest")
def test_a_check_that_was_not_run_is_never_a_pass(live: dict[str, Any]) -> None:
    built = build(live, checks=({**PASSED_CHECK, "result": "not run", "reason": "no value for x"},))
    assert built["status"] == "incomplete"
    assert built["headline"] == "Every value arrived; 1 functional check not run"
    assert any("no value for x" in step for step in built["next_steps"])


def test_rehearsed_and_pending_groups_are_not_called_done(live: dict[str, Any]) -> None:
    rehearsed = changed(live, state="rehearsed", cutover=None, next_step="Cut it over")
    assert build(rehearsed)["headline"] == "The rehearsal holds: every value arrived"
    assert build(rehearsed)["status"] == "incomplete"
    assert build(live, rehearsed)["headline"] == "Every value moved so far arrived"
    assert "zoo: Cut it over" in build(rehearsed)["next_steps"]
    assert build(changed(live, state="pending", tables=[]))["headline"] == "Nothing has been moved yet"


@pytest.mark.promise("report-says-what-is-new")
def test_html_is_well_formed_self_contained_and_escaped(live: dict[str, Any]) -> None:
    live["information"].append("<img src=x onerror=alert(1)>")
    live["rejects"] = {"total": 1, "rows": [{"table": "pets", "key": "id='<b>'", "reason": "orphan"}]}
    text = render(build(live))
    page = Page(text)
    names = [name for name, _ in page.elements]
    assert not set(names) & {"img", "link", "iframe", "b"}
    references = [attributes for _, attributes in page.elements if {"src", "href"} & set(attributes)]
    assert {attributes["href"] for attributes in references} == {"#group-1", "#table-1-1", "#table-1-2"}
    assert "url(" not in text
    # The browser runs this one script, and nothing that a value might bring along.
    assert names.count("script") == 1
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(attributes["content"] for name, attributes in page.elements if "http-equiv" in attributes)
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert "id='<b>'" in page.text
    assert "nobody" in page.text


def test_html_can_be_read_by_everybody(live: dict[str, Any]) -> None:
    text = render(build(live))
    page = Page(text)
    assert next(attributes for name, attributes in page.elements if name == "html")["lang"] == "en"
    classes = [attributes.get("class") for _, attributes in page.elements]
    assert classes.count("chart") == 3
    # What a bar shows stands beside it as text.
    bars = [attributes for _, attributes in page.elements if attributes.get("class") == "bars"]
    assert bars
    assert all(bar["aria-hidden"] == "true" for bar in bars)
    assert classes.count("value") == len(bars)
    assert all("scope" in attributes for name, attributes in page.elements if name == "th")
    assert "prefers-color-scheme: dark" in text
    headings = [name for name, _ in page.elements if name in ("h1", "h2", "h3")]
    assert headings.count("h1") == 1


def test_html_shows_the_proof(live: dict[str, Any]) -> None:
    text = Page(render(build(live))).text
    for expected in (
        "Every value arrived",
        "app.pets",
        live["tables"][0]["source_hash"],
        "pets_owner",
        "1.1 s",
        "2.5 s",
        "chief",
        "Expected downtime",
        "nothing to change, 5 rows of equal content",
        "our own steps",
        "watch, after the window",
        "zoo-web",
        "41",
    ):
        assert expected in text


@pytest.mark.promise("report-says-what-is-new")
def test_html_of_a_failure_begins_with_it(live: dict[str, Any]) -> None:
    table = {**live["tables"][0], "equal": False, "target_rows": 1, "target_hash": "f" * 32}
    text = Page(render(build(changed(live, findings=[FINDING], tables=[table])))).text
    assert text.index("Validation failed") < text.index("What to do next") < text.index("Cutover groups")
    assert "f" * 32 in text


@pytest.mark.promise("report-says-what-is-new")
def test_report_is_written_once_for_an_unchanged_state(live: dict[str, Any], tmp_path: Path) -> None:
    base = tmp_path / "reports"
    first = report_files.write(base, build(live))
    later = report.build(
        "dev", "swarm-dev", [live], [{**PASSED_CHECK, "seconds": 9.0}], DATABASE, datetime(2030, 1, 1, tzinfo=UTC)
    )
    second = report_files.write(base, later)
    assert (first["changed"], second["changed"]) == (True, False)
    assert second["path"] == first["path"]
    assert os.readlink(base / "latest") == Path(first["path"]).name
    assert json.loads((base / "latest" / "report.json").read_text())["headline"] == "Every value arrived"
    assert (base / "latest" / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert (base / "latest" / "report.json").stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in base.iterdir()) == sorted([Path(first["path"]).name, "latest"])


@pytest.mark.promise("report-says-what-is-new")
def test_a_new_fact_makes_a_new_report(live: dict[str, Any], tmp_path: Path) -> None:
    base = tmp_path / "reports"
    report_files.write(base, build(live))
    later = report.build(
        "dev", "swarm-dev", [changed(live, findings=[FINDING])], [], DATABASE, datetime(2030, 1, 1, tzinfo=UTC)
    )
    written = report_files.write(base, later)
    assert written == {"changed": True, "path": str(base / "2030-01-01T000000Z")}
    assert os.readlink(base / "latest") == "2030-01-01T000000Z"
    assert len(list(base.iterdir())) == 3


@pytest.mark.promise("report-says-what-is-new")
def test_an_override_of_the_gate_stays_in_the_report(live: dict[str, Any], tmp_path: Path) -> None:
    def built() -> dict[str, Any]:
        return report.build("prod", "h", [live], [], DATABASE, overrides=gate.read_overrides(tmp_path, "prod"))

    base = tmp_path / "of_the_host"
    assert "Gate overridden" not in Page(render(built())).text
    report_files.write(base, built())
    protection = gate.Protection("prod", "dev", 7.0, ())
    passed_over = Problem("prod", "there is no <b>evidence</b>", "Run dev first")
    path = gate.record_override(tmp_path, protection, "dev burnt down today", [passed_over])
    # What somebody has damaged, or put there, keeps no report from being written.
    for name, content in {"a": "{", "b": "[]", "c": '{"at": "now"}', "d": '{"at": 3}'}.items():
        (path.parent / f"{name}.json").write_text(content)
    assert [one["reason"] for one in built()["overrides"]] == ["dev burnt down today"]
    assert gate.read_overrides(tmp_path, "dev") == []
    text = Page(render(built())).text
    assert (
        text.index("Gate overridden") < text.index("dev burnt down today") < text.index("there is no <b>evidence</b>")
    )
    assert report_files.write(base, built(), check_mode=True)["changed"]
    assert report_files.write(base, built())["changed"]
    assert not report_files.write(base, built(), check_mode=True)["changed"]


@pytest.mark.promise("report-says-what-is-new")
def test_check_mode_predicts_and_writes_nothing(live: dict[str, Any], tmp_path: Path) -> None:
    base = tmp_path / "reports"
    not_run = {**PASSED_CHECK, "result": "not run", "reason": "check mode sends no request"}
    assert report_files.write(base, build(live, checks=(not_run,)), check_mode=True)["changed"]
    assert not base.exists()
    report_files.write(base, build(live))
    before = sorted(base.iterdir())
    assert not report_files.write(base, build(live, checks=(not_run,)), check_mode=True)["changed"]
    assert report_files.write(base, build(changed(live, findings=[FINDING]), checks=(not_run,)), check_mode=True)[
        "changed"
    ]
    assert sorted(base.iterdir()) == before


def test_half_a_surrogate_pair_is_written_as_its_escape(live: dict[str, Any], tmp_path: Path) -> None:
    base = tmp_path / "reports"
    built = build(changed(live, information=["half \ud83d"]))
    assert [report_files.write(base, built)["changed"] for _ in range(2)] == [True, False]
    assert "half \ud83d" in json.loads((base / "latest" / "report.json").read_text())["groups"][0]["information"]
    assert "half \\ud83d" in (base / "latest" / "report.html").read_text()


def test_a_damaged_latest_report_is_replaced(live: dict[str, Any], tmp_path: Path) -> None:
    base = tmp_path / "reports"
    report_files.write(base, build(live))
    (base / "latest" / "report.json").write_text("{")
    assert report_files.write(base, build(live))["changed"]


def test_printed_summary_is_a_table(live: dict[str, Any]) -> None:
    lines = report.summary_lines(build(live), "reports/dev/x")
    assert lines[0] == "Every value arrived"
    assert "zoo    live   2       5     yes    2.5 s" in lines
    assert "Report: reports/dev/x/report.html" in lines
    assert lines[-1].startswith("Next: ")


@pytest.mark.promise("run-readable")
def test_what_was_told_before_takes_two_lines_unless_somebody_has_to_do_something(live: dict[str, Any]) -> None:
    told = report.summary_lines(build(live), "reports/dev/x", is_new=False)
    assert told[0] == "Every value arrived: 2 tables with 5 rows equal on both sides, and 1 functional check passed."
    assert told[1].startswith("Nothing is new since the report reports/dev/x/report.html") and len(told) == 2
    pending = changed(live, group="farm", state="pending", next_step=state.advice("pending", "farm"))
    for built in (build(live, pending), build(changed(live, findings=[FINDING]))):
        told = report.summary_lines(built, "reports/dev/x", is_new=False)
        assert told == report.summary_lines(built, "reports/dev/x")
        assert any(line.startswith("Next: ") for line in told)


@pytest.mark.promise("report-says-what-is-new")
def test_what_differs_comes_first_among_hundreds_of_tables(live: dict[str, Any]) -> None:
    table = {**live["tables"][0], "source_rows": 1_000_000, "target_rows": 1_000_000}
    tables = [{**table, "target": f"app.number_{number:03}"} for number in range(299)]
    tables.append({**table, "target": "app.small", "source_rows": 3, "target_rows": 1, "equal": False})
    text = render(build(changed(live, tables=tables)))
    page = Page(text)
    rows = [attributes for name, attributes in page.elements if name == "li" and "data-name" in attributes]
    assert [(row["data-name"], row["class"]) for row in rows][:2] == [
        ("app.small", "differs"),
        ("app.number_000", "same"),
    ]
    assert len(rows) == 300
    assert "280 smaller tables" in page.text
    # The proof is one row for each table; it is closed until somebody opens it.
    proof = next(attributes for name, attributes in page.elements if attributes.get("id") == "group-1")
    assert "open" not in proof
    assert "only-differing" in [attributes.get("id") for name, attributes in page.elements if name == "input"]
    assert ":has(#only-differing:checked) :is(.proof, .chart) .same" in text
    assert len([row for name, row in page.elements if name == "tr" and row.get("class") == "differs"]) == 1


@pytest.mark.promise("report-says-what-is-new")
def test_each_name_of_the_chart_leads_to_the_proof_of_its_table(live: dict[str, Any]) -> None:
    """Tables of two groups, whose order in the chart is another than that of the proof."""
    tables = [{**live["tables"][0], "source": name, "target": f"app.{name}"} for name in ("a", "b", "c")]
    tables[2] |= {"source_rows": 77, "target_rows": 77}
    other = changed(live, group="farm", tables=[{**live["tables"][0], "target": "app.d", "equal": False}])
    text = render(build(changed(live, tables=tables), other))
    shown = re.findall(r'<a href="#(table-[\d-]+)">([\w.]+)</a>', text)
    proved = re.findall(r'<tr id="(table-[\d-]+)" class="\w+" data-name="\w+ ([\w.]+)">', text)
    assert [name for _, name in shown] == ["app.d", "app.c", "app.a", "app.b"]
    assert [name for _, name in proved] == ["app.a", "app.b", "app.c", "app.d"]
    assert sorted(shown) == sorted(proved)
    # A proof that is closed opens when a name leads to it.
    assert "querySelectorAll('a[href^=\"#\"]')" in text


def test_the_filter_hides_rows_of_charts_and_tables_without_a_match(live: dict[str, Any]) -> None:
    text = render(build(live))
    # The grid of a chart's row is a stronger rule than a class alone.
    assert ".filtered { display: none; }" not in text
    assert "body.filtering :is(.chart li, tr).filtered," in text
    assert "body.filtering .proof table:not(:has([data-name]:not(.filtered)))," in text
    assert "classList.toggle('filtering', wanted !== '')" in text


def test_a_table_of_few_rows_stays_visible_beside_a_large_one(live: dict[str, Any]) -> None:
    table = live["tables"][0]
    tables = [
        {**table, "target": "app.large", "source_rows": 9_999_999, "target_rows": 9_999_999},
        {**table, "target": "app.small", "source_rows": 9, "target_rows": 9},
        {**table, "target": "app.empty", "source_rows": 0, "target_rows": 0},
    ]
    text = render(build(changed(live, tables=tables)))
    assert re.findall(r'class="bar source" style="width:([\d.]+)%"', text) == ["100.0", "14.3", "0.0"]


@pytest.mark.parametrize(
    "command",
    [
        commands.playbook_on("dev", "6_cleanup"),
        commands.playbook_on("'dev:&web'", "rollback", service_env_rollback_groups="zoo,farm", lose_rows=3),
        commands.playbook_on("dev", "rollback", reason="it's late; stop."),
        commands.site_on("dev", inventory="inventories/a b/hosts.yml", dry_run=True),
    ],
)
@pytest.mark.parametrize("end", ["", ".", ", then look", " (with --check it is only tried)", "; done"])
def test_a_command_can_be_copied_whole_and_alone(command: str, end: str) -> None:
    page = Page(with_commands(f"Run <b> {command}{end}"))
    assert [(name, attributes["class"]) for name, attributes in page.elements] == [("code", "command")]
    assert page.words == ["Run <b> ", command, *([end] if end else [])]


def test_the_playbook_writes_the_report_on_the_controller(live: dict[str, Any], tmp_path: Path) -> None:
    """The task of the role, played: a dry run, a run, and a run into a place that cannot be written."""
    report_of = {"environment_name": "dev", "host": "h", "groups": [live], "checks": [], "database": DATABASE}
    (tmp_path / "file").write_text("")
    tasks = [
        {"directory": str(tmp_path / "reports"), "check_mode": True},
        {"directory": str(tmp_path / "reports"), "check_mode": False},
        {"directory": str(tmp_path / "file"), "check_mode": False},
    ]
    play: dict[str, Any] = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "environment": {commands.LIMIT_VARIABLE: "dev"},
        "tasks": [
            {
                "swarm.sqlite_to_postgresql.migration_report": {"directory": task["directory"], **report_of},
                "check_mode": task["check_mode"],
                "register": f"result_{number}",
                "ignore_errors": True,
            }
            for number, task in enumerate(tasks)
        ],
    }
    results = {f"result_{number}": f"{{{{ result_{number} }}}}" for number in range(len(tasks))}
    play["tasks"].append(
        {"ansible.builtin.copy": {"dest": str(tmp_path / "results"), "content": "{{ found | to_json }}"}}
    )
    play["tasks"][-1]["vars"] = {"found": results}
    playbook = tmp_path / "report.yml"
    playbook.write_text(json.dumps([play]))
    run = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", playbook], cwd=PROJECT, check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    dry, real, refused = json.loads((tmp_path / "results").read_text()).values()
    assert (dry["changed"], real["changed"], refused["failed"]) == (True, True, True)
    assert any("(would be written)" in line for line in dry["lines"])
    assert any("rollback.yml -l dev" in line for line in real["lines"])
    assert "Every value arrived" in (tmp_path / "reports" / "latest" / "report.html").read_text()
    assert "validation_report_directory" in refused["msg"]
