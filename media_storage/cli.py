"""The commands: dev · serve · doctor · init-bucket."""

import os
import sys

import click

from media_storage import doctor as examination
from media_storage import ops, server, settings
from media_storage.dev import run as dev_run
from media_storage.errors import StoreUnavailable
from media_storage.metrics import CannotListen
from media_storage.settings import Settings, SettingsError
from media_storage.storage import Store
from media_storage.version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="media-storage")
def main() -> None:
    """Takes picture uploads of signed-in users, stores them in MinIO, and redirects readers to them."""


def _stop(text: str, status: int) -> None:
    click.echo(text, err=True)
    sys.exit(status)


def _settings(defaults: dict[str, str] | None = None) -> Settings:
    """The configuration, with logging set up; ends the command with status 2 when there are problems."""
    try:
        found = settings.load(os.environ, defaults=defaults)
    except SettingsError as exc:
        problems = "".join(f"\n  - {problem}" for problem in exc.problems)
        _stop(f"The configuration has {len(exc.problems)} problem(s), in the environment or in .env:{problems}", 2)
        raise
    ops.configure_logging(found.log_format, found.log_level)
    return found


@main.command()
def serve() -> None:
    """Run the service for production."""
    try:
        server.serve(_settings())
    except (server.ServerMissing, CannotListen) as exc:
        _stop(str(exc), 2)


@main.command()
def dev() -> None:
    """Run everything on this machine: the service, and whatever of store and chat backend is not there."""
    try:
        sys.exit(dev_run.run(os.environ))
    except SettingsError as exc:
        _stop("\n".join(exc.problems), 2)


@main.command("init-bucket")
def init_bucket() -> None:
    """Create the bucket and let anyone read its uploads, and nothing more. May be repeated."""
    found = _settings({"PUBLIC_BASE_URL": "http://localhost:9101"})  # not needed for this
    store = Store(found)
    try:
        created = store.create_bucket()
        store.publish()
    except StoreUnavailable as exc:
        _stop(f"The bucket could not be prepared: {exc.reason}", 1)
    click.echo(f"Bucket {store.bucket} {'created' if created else 'is there'}; anyone can read uploads/*, and nobody can list it.")


@main.command()
def doctor() -> None:
    """Ask the backend, the store, the bucket and the public URL, and say what to do about what is wrong."""
    failures = 0
    for finding in examination.examine(_settings()):
        click.echo(f"{'ok' if finding.ok else 'FAILED':<8}{finding.what:<13}{finding.text}")
        if not finding.ok:
            failures += 1
            click.echo(f"{'':<21}{finding.advice}")
    click.echo(f"\n{failures} thing(s) to mend." if failures else "\nAll is well: uploads will work.")
    sys.exit(1 if failures else 0)
