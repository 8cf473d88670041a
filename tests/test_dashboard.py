"""Dashboard and alerts ask for what the code has, in words that Prometheus understands."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.test_readme import README
from vidgen import metrics

DEPLOY = Path(__file__).parents[1] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
RULES = DEPLOY / "prometheus-rules.yml"
NAME = re.compile(r"\bvidgen_\w+")
SELECTOR = re.compile(r"\b(vidgen_\w+)\{([^}]*)\}")
# Prometheus adds the first one; the others belong to alerts and histograms.
OTHER_LABELS = {"instance", "alertname", "le"}


@pytest.fixture(scope="module")
def promtool() -> str:
    program = shutil.which("promtool")
    if program is None:
        in_ci = "CI" in os.environ  # noqa: TID251  as for pgbouncer: there it must not be left out
        assert not in_ci, "promtool is missing; .ci/run installs it on Debian (prometheus)"
        pytest.skip("promtool is not installed (apt-get install prometheus)")
    return program


def samples() -> dict[str, set[str]]:
    """Every series a scrape may have, and its labels, also those that have not happened yet."""
    known: dict[str, set[str]] = {}
    for metric in set(metrics.REGISTRY._collector_to_names):
        name = getattr(metric, "_name", None)
        if name is None:
            continue  # a collector of the process
        labels = set(metric._labelnames)  # type: ignore[attr-defined]  # the client hides them
        match metric._type:  # type: ignore[attr-defined]
            case "counter":
                known[f"{name}_total"] = labels
            case "histogram":
                known[f"{name}_bucket"] = labels | {"le"}
                known[f"{name}_sum"] = known[f"{name}_count"] = labels
            case "info":
                known[f"{name}_info"] = labels | {"version"}
            case _:
                known[name] = labels
    return known


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Each question of the dashboard, and in which panel it is asked."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def documented() -> set[str]:
    section = README.partition("### Metrics")[2].partition("\n### ")[0].partition("\n## ")[0]
    return {
        name
        for line in section.splitlines()
        if line.startswith("| `")
        for name in NAME.findall(line.split("|")[1])
    }


# --- names ---


def test_every_metric_is_documented_and_no_other() -> None:
    assert documented() == bases()


def bases() -> set[str]:
    """Every metric as people call it."""
    return {re.sub("_(bucket|sum|count)$", "", name) for name in samples()}


@pytest.mark.parametrize("file", sorted(path.name for path in DEPLOY.glob("prometheus-*.yml")))
def test_alerts_name_only_metrics_that_exist(file: str) -> None:
    used = set(NAME.findall((DEPLOY / file).read_text()))  # sentences name them, too

    assert used - set(samples()) - bases() == set()


def test_the_dashboard_names_only_metrics_that_exist() -> None:
    used = {name for _, expression in queries() for name in NAME.findall(expression)}

    assert used - set(samples()) == set()


def test_the_dashboard_shows_every_metric() -> None:
    used = {name for _, expression in queries() for name in NAME.findall(expression)}

    assert {re.sub("_(bucket|sum|count)$", "", name) for name in used} == bases()


def test_selectors_name_only_labels_that_the_metric_has() -> None:
    known = samples()
    texts = [RULES.read_text(), *(expression for _, expression in queries())]

    for text in texts:
        for name, selector in SELECTOR.findall(text):
            labels = set(re.findall(r"(\w+)\s*[=!]~?", selector))
            assert labels - OTHER_LABELS <= known[name], (name, selector)


def test_groups_name_only_labels_that_exist() -> None:
    labels = set().union(*samples().values()) | OTHER_LABELS
    texts = [RULES.read_text(), *(expression for _, expression in queries())]

    for text in texts:
        for group in re.findall(r"\bby \(([^)]*)\)", text):
            assert set(re.findall(r"\w+", group)) <= labels, text


def test_labels_of_alerts_have_values_that_the_code_writes() -> None:
    known = {
        value
        for family in metrics.REGISTRY.collect()
        for sample in family.samples
        for value in sample.labels.values()
    }

    for _, selector in SELECTOR.findall(RULES.read_text()):
        for values in re.findall(r'"([^"]*)"', selector):
            assert set(values.split("|")) <= known, selector


# --- shape ---


def test_the_dashboard_works_with_any_prometheus() -> None:
    names = {variable["name"]: variable["type"] for variable in DASHBOARD["templating"]["list"]}

    assert names == {"datasource": "datasource", "provider": "query"}
    for panel in panels():
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {source["uid"] for source in sources} == {"${datasource}"}


def test_panels_do_not_cover_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (column, line)
            for column in range(place["x"], place["x"] + place["w"])
            for line in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells

    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


# --- what Prometheus itself says ---


def test_prometheus_takes_the_rules(promtool: str) -> None:
    check(promtool, "check", "rules", "--lint-fatal", str(RULES))


def test_alerts_fire_when_they_should_and_are_silent_else(promtool: str) -> None:
    check(promtool, "test", "rules", str(DEPLOY / "prometheus-rules-test.yml"))


def test_every_alert_is_tried(promtool: str) -> None:
    alerts = set(re.findall(r"alert: (\w+)", RULES.read_text()))
    tried = (DEPLOY / "prometheus-rules-test.yml").read_text()

    assert {alert for alert in alerts if alert not in tried} <= {
        "VidgenWebhooksPileUp",
        "VidgenWebhooksGivenUp",
    }
    assert "VidgenWebhooks.*" in tried


def test_prometheus_understands_every_question_of_the_dashboard(
    promtool: str, tmp_path: Path
) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": filled(expression)}
        for number, (_, expression) in enumerate(queries())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))

    check(promtool, "check", "rules", str(file))


def filled(expression: str) -> str:
    """*expression* as Grafana sends it."""
    for variable, value in (
        ("$__rate_interval", "2m"),
        ("$__range", "6h"),
        ("$provider", "(sora|veo)"),
    ):
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


def check(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
