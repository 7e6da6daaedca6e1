"""docs/operating.md names what exists: settings, commands, codes, files and directives."""

import re

from click.testing import CliRunner

from deployed import DEPLOY, EXPOSURE, ROOT, UNIT, compose
from media_storage import errors
from media_storage.cli import main
from media_storage.settings import Settings

TEXT = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
SPANS = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL))
OF_OTHERS = {"TMPDIR"}  # variables that this service does not read itself


def test_its_settings_exist() -> None:
    """Every name that is written like one; those that limit or locate anything are all there."""
    named = {span.partition("=")[0] for span in SPANS if re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*(=.*)?", span) and len(span) > 3}
    settings = {name.upper() for name in Settings.model_fields}
    assert named - OF_OTHERS - {"SIGTERM"} <= settings
    assert {"WORKERS", "MAX_CONCURRENT_UPLOADS", "MAX_UPLOAD_MB", "SHUTDOWN_GRACE_SECONDS", "REDIRECT_MAX_AGE_SECONDS"} <= named


def test_its_commands_exist() -> None:
    """Each command, with the options that it is given."""
    typed = re.findall(r"media-storage ([a-z-]+)((?: --?[a-z-]+)*)", TEXT)
    assert {"doctor", "init-bucket", "erase"} <= {name for name, _ in typed} <= set(main.commands)
    for name, options in typed:
        shown = CliRunner().invoke(main, [name, "--help"]).output
        assert all(option in shown for option in options.split()), (name, options)
    assert "--yes" in SPANS


def test_its_answers_exist() -> None:
    """Statuses with a code are refusals of the service."""
    refusals = {
        f"{kind.status} {kind.code}" for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Refusal)
    }
    named = {span for span in SPANS if re.fullmatch(r"[45]\d\d [a-z_]+", span)}
    assert named
    assert named <= refusals


def test_its_files_and_directives_exist() -> None:
    """Paths from the repository's top, links, headings that the list at the top names, and what the unit and the compose file set."""
    for span in SPANS:
        if re.match(r"(deploy|docs|benchmarks)/", span):
            assert (ROOT / span).exists(), span
        if re.fullmatch(r"[A-Z]\w+=", span) and span != "SystemMaxUse=":
            assert f"\n{span}" in UNIT.read_text(), span
    assert "stop_grace_period" in compose()
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("https://") or (ROOT / "docs" / target).exists(), target
    headings = {heading.lower().replace(",", "").replace(" ", "-") for heading in re.findall(r"^## (.+)$", TEXT, re.MULTILINE)}
    assert set(re.findall(r"\(#([a-z-]+)\)", TEXT)) == headings


def test_every_file_to_deploy_is_introduced() -> None:
    """Nothing lies in deploy/ that the page does not name."""
    files = [path for path in DEPLOY.iterdir() if path.is_file()]
    assert files
    for path in files:
        assert path.name in TEXT, path.name


def test_its_figure_of_the_unit_is_the_tested_one() -> None:
    """systemd's rating, as test_deploy.py measures it."""
    assert f"rates the unit {EXPOSURE} of 10" in TEXT


def test_every_alert_is_explained() -> None:
    """Each rule of deploy/prometheus has its row, and no row is about a rule that is not there."""
    rules = (DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
    rows = TEXT.split("\n## Alerts\n", 1)[1]
    assert re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE) == re.findall(r"- alert: (\w+)", rules)
