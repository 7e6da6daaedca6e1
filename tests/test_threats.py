"""Which test proves the service's answer to each known threat, or which sentence of the README answers it.

A row names tests as ``file::name`` and README sentences as they stand there; both are checked to exist, so that neither
can be renamed or dropped without somebody looking here.
"""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


@dataclass(frozen=True)
class Answer:
    """A threat, the tests that prove the answer to it, and what operators are told."""

    threat: str
    tests: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()


THREATS = {
    "T1": Answer(
        "a dangerous type is stored",
        (
            "e2e/test_contract.py::test_what_is_none_of_the_three_types_is_refused",
            "e2e/test_contract.py::test_a_signature_without_a_picture_is_refused",
            "pictures/test_judge.py::test_nothing_hostile_passes_for_another_type",
        ),
    ),
    "T2": Answer(
        "the stored content type is the client's",
        (
            "e2e/test_contract.py::test_an_upload_is_stored_and_its_url_leads_to_it",
            "e2e/test_http_abuse.py::test_file_names_leave_no_trace",
        ),
    ),
    "T3": Answer(
        "a file that is a picture and something else",
        (
            "e2e/test_browser_origins.py::test_a_picture_that_is_also_a_page_stays_a_picture",
            "test_images.py::test_bytes_behind_the_end_do_not_matter",
            "test_app.py::test_every_answer_is_framed",
        ),
        ("so a picture that is also HTML could be shown as a page of that host",),
    ),
    "T4": Answer(
        "readers override the content type at the store",
        (
            "e2e/test_contract.py::test_a_key_that_could_not_be_minted_is_not_found",
            "e2e/test_contract.py::test_the_redirect_takes_nothing_from_the_request",
        ),
        ("**Serve the store from a host of its own, without cookies.**",),
    ),
    "T5": Answer(
        "a key that leads elsewhere",
        (
            "e2e/test_contract.py::test_a_key_that_could_not_be_minted_is_not_found",
            "test_keys.py::test_what_could_not_have_been_minted_is_not_recognised",
            "test_app.py::test_a_key_that_nobody_minted",
        ),
    ),
    "T6": Answer(
        "a redirect that names the Host header", ("test_app.py::test_paths_are_not_tidied", "test_app.py::test_the_host_goes_nowhere")
    ),
    "T7": Answer(
        "a key that begins a header of its own",
        ("e2e/test_contract.py::test_a_key_that_could_not_be_minted_is_not_found", "test_keys.py::test_no_odd_character_anywhere_in_a_key"),
    ),
    "T8": Answer(
        "another site's form uploads as the user",
        (
            "e2e/test_browser_origins.py::test_another_sites_form_uploads_nothing",
            "e2e/test_browser_origins.py::test_a_page_without_an_origin_uploads_nothing",
            "e2e/test_contract.py::test_another_sites_page_may_not_upload",
        ),
    ),
    "T9": Answer(
        "CORS that reflects any origin",
        (
            "e2e/test_browser_origins.py::test_a_script_of_another_origin_uploads_nothing",
            "e2e/test_browser_origins.py::test_a_script_of_another_origin_deletes_nothing",
            "test_origins.py::test_cors_of_any_other_origin",
            "test_settings.py::test_origins_that_let_anyone_in",
        ),
    ),
    "T10": Answer(
        "the cookie follows a redirect of the backend",
        ("test_auth.py::test_redirects_are_not_followed", "test_auth.py::test_no_cookie_is_kept"),
    ),
    "T11": Answer(
        "proxies and netrc of the environment see the cookie",
        ("test_auth.py::test_proxies_of_the_environment_are_ignored", "test_auth.py::test_netrc_is_ignored"),
    ),
    "T12": Answer(
        "a backend's 200 that says nothing usable",
        (
            "test_auth.py::test_a_200_without_a_user",
            "test_auth.py::test_compressed_answers_that_cannot_be_used",
            "test_auth.py::test_no_more_is_read_than_is_needed",
            "test_keys.py::test_not_user_ids",
        ),
    ),
    "T13": Answer(
        "a backend that fails lets everyone in",
        (
            "test_auth.py::test_an_outage_of_the_backend",
            "test_auth.py::test_the_timeout_bounds_the_whole_call",
            "test_auth.py::test_nobody_there",
            "e2e/test_faults.py::test_a_backend_that_misbehaves",
        ),
    ),
    "T14": Answer(
        "strangers fill memory and disk",
        (
            "e2e/test_contract.py::test_uploads_are_quick_to_say_no_to_strangers",
            "e2e/test_http_abuse.py::test_strangers_fill_neither_memory_nor_disk",
        ),
    ),
    "T15": Answer(
        "a multipart body that only costs",
        (
            "e2e/test_http_abuse.py::test_multipart_bodies_that_only_cost",
            "e2e/test_http_abuse.py::test_files_that_look_like_boundaries",
            "e2e/test_contract.py::test_a_body_that_is_not_one_file_is_refused",
        ),
    ),
    "T16": Answer(
        "a parser that alters the bytes",
        (
            "e2e/test_contract.py::test_bytes_are_stored_as_sent_at_every_length",
            "test_receive.py::test_any_split_of_any_body_gives_the_same_bytes",
        ),
    ),
    "T17": Answer(
        "a request hidden in another",
        (
            "e2e/test_http_abuse.py::test_a_body_of_doubtful_length_is_refused",
            "e2e/test_http_abuse.py::test_bad_chunks_are_refused",
            "e2e/test_contract.py::test_a_connection_serves_on_after_a_refusal",
        ),
    ),
    "T18": Answer(
        "clients that are slow on purpose",
        (
            "test_body_unix.py::test_a_body_under_the_floor_is_refused",
            "test_body_unix.py::test_a_body_has_a_time_limit_as_a_whole",
            "test_worker_unix.py::test_a_head_that_does_not_come_ends_the_connection",
            "e2e/test_slow_clients.py::test_whoever_is_too_slow_is_cut_in_time_and_others_are_served",
            "e2e/test_slow_clients.py::test_clients_that_linger_or_idle_do_not_stop_others",
        ),
    ),
    "T19": Answer(
        "a small file of very many pixels",
        ("test_images.py::test_a_bomb_has_too_many_pixels", "test_images.py::test_the_pixel_limit_is_exact"),
    ),
    "T20": Answer(
        "one user fills the store",
        (
            "test_ratelimit.py::test_the_service_counts_exactly_for_all_its_workers",
            "test_ratelimit.py::test_what_is_above_the_limit_waits_for_the_next_minute",
        ),
        ("for each user; `0` allows any number",),
    ),
    "T21": Answer(
        "anyone lists the bucket",
        (
            "e2e/test_contract.py::test_the_public_may_read_and_nothing_else",
            "test_storage.py::test_the_policy_gives_objects_and_nothing_else",
            "e2e/test_commands.py::test_doctor_audits_the_policy_in_force",
        ),
        ('The usual "public download" presets also let anyone *list* the bucket',),
    ),
    "T22": Answer(
        "the store's key may do too much",
        (
            "e2e/test_least_privilege.py::test_the_service_does_all_that_it_promises",
            "e2e/test_least_privilege.py::test_the_credentials_allow_nothing_more",
        ),
        ("The service needs only this much of the store; give it a user of its own:",),
    ),
    "T23": Answer(
        "S3 multipart uploads that nobody finishes",
        ("test_storage.py::test_a_put_is_one_signed_request_with_length_and_checksum", "e2e/test_faults.py::test_a_worker_that_is_killed"),
    ),
    "T24": Answer(
        "forged log lines, secrets in logs",
        (
            "e2e/test_leaks.py::test_no_refusal_tells_a_secret",
            "e2e/test_leaks.py::test_what_cannot_be_parsed_is_not_repeated",
            "test_ops.py::test_json_lines_cannot_be_forged",
            "test_ops.py::test_console_lines_cannot_be_forged",
        ),
    ),
    "T25": Answer(
        "error pages that show the inside",
        (
            "test_app.py::test_a_defect",
            "e2e/test_leaks.py::test_no_refusal_tells_a_secret",
            "e2e/test_leaks.py::test_answers_name_no_version",
        ),
    ),
    "T26": Answer("gunicorn's control socket", ("e2e/test_leaks.py::test_serve_writes_nothing_but_temporary_files",)),
}


@cache
def names_of_tests(file: str) -> frozenset[str]:
    """The names of the test functions of a file, those in classes too."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))


def test_no_threat_is_left_out() -> None:
    """Each of the 26 of the catalogue has an answer: a test, or words to operators where only these can help."""
    assert list(THREATS) == [f"T{number}" for number in range(1, 27)]
    assert all(answer.tests or answer.sentences for answer in THREATS.values())


@pytest.mark.parametrize("name", THREATS)
def test_the_answer_to_a_threat_is_there(name: str) -> None:
    """The tests that are named exist, and so do the README's sentences."""
    for test in THREATS[name].tests:
        file, _, function = test.partition("::")
        assert function in names_of_tests(file), test
    for sentence in THREATS[name].sentences:
        assert sentence in README
