"""The commands: dev · serve · doctor · init-bucket · erase."""

import os
import sys
from typing import NoReturn

import click

from media_storage import doctor as examination
from media_storage import erase as takedown
from media_storage import keys as key_grammar
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


def _stop(text: str, status: int) -> NoReturn:
    click.echo(text, err=True)
    sys.exit(status)


# What commands that only talk to the store do not ask for.
NOT_NEEDED = {"PUBLIC_BASE_URL": "http://localhost:9101"}


def _settings(defaults: dict[str, str] | None = None) -> Settings:
    """The configuration, with logging set up; ends the command with status 2 when there are problems."""
    try:
        found = settings.load(os.environ, defaults=defaults)
    except SettingsError as exc:
        problems = "".join(f"\n  - {problem}" for problem in exc.problems)
        _stop(f"The configuration has {len(exc.problems)} problem(s), in the environment or in .env:{problems}", 2)
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
    store = Store(_settings(NOT_NEEDED))
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


@main.command()
@click.option("--user", metavar="ID", default="", help="Everything that this user uploaded.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
def erase(user: str, yes: bool, keys: tuple[str, ...]) -> None:
    """Delete a user's pictures, or those with the given keys, after showing what that is.

    A key is what stands behind /media/ in a picture's URL. The credentials must be allowed to list the bucket
    (s3:ListBucket), which the service's own are not. Status 0: nothing of it is there any more; 1: something is; 2: wrong usage.
    """
    selection = _selection(user, keys)
    configured = _settings(NOT_NEEDED)
    store = Store(configured)
    try:
        found = takedown.survey(store, selection)
    except StoreUnavailable as exc:
        advice = "These credentials may not list the bucket (s3:ListBucket); use an administrator's. " if exc.denied else ""
        _stop(f"{advice}Nothing was deleted: {exc.reason}", 1)
    click.echo("\n".join([f"In the bucket {store.bucket} at {configured.minio_endpoint}:", *found.lines()]))
    if not found.objects:
        return
    if not yes and not _confirmed():
        _stop("Nothing was deleted.", 1)
    outcome = takedown.erase(store, selection, found)
    click.echo("\n".join(outcome.lines()))
    sys.exit(0 if outcome.complete else 1)


def _selection(user: str, keys: tuple[str, ...]) -> takedown.Selection:
    if bool(user) == bool(keys):
        raise click.UsageError("Name either a user with --user ID, or keys.")
    if user and not key_grammar.is_user_id(user):
        raise click.UsageError(f"{user!r} cannot be a user's id.")
    for key in keys:
        if key_grammar.owner(key) is None:
            raise click.UsageError(f"{key!r} is no key of this service: uploads/<user>/<uuid>.<jpg, png or webp>, and nothing before it.")
    return takedown.Selection(frozenset(keys), user)


def _confirmed() -> bool:
    try:
        return click.confirm("Delete them?")
    except click.Abort:  # the end of the input, or Ctrl-C
        click.echo()
        return False
