"""What the files in deploy/ say."""

import re
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "media-storage.service"
EXPOSURE = 1.1  # of 10, by systemd; what is left is the network, which the service is for


def unit() -> dict[str, str]:
    """The unit's [Service] section; of repeated names the last one."""
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return dict(parser["Service"])


def dockerfile() -> list[tuple[str, str]]:
    """Instructions and their arguments, in order."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def arguments(name: str) -> list[str]:
    return [rest for instruction, rest in dockerfile() if instruction == name]


def compose() -> dict[str, Any]:
    """The one service of compose.yaml."""
    whole = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    (service,) = whole["services"].values()
    return dict(service)
