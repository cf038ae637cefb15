"""Who gets in, in what order, and what each caller may hold. See `requirements.py`."""

from tests.conformance.requirements import Requirement

_HOSTILE = "tests/gateway/test_hostile.py::"
_CONNECTIONS = "tests/operations/test_connections.py::"
_SHARES = "tests/operations/test_shares.py::"

ADMISSION = (
    Requirement(
        "admission.one-spelling",
        "RFC 9112 sections 2.2 and 3, RFC 9110 section 5.3",
        "A path has one spelling, a credential one value; a body that is not read does not keep its connection",
        (
            _HOSTILE + "test_a_path_has_one_spelling",
            _HOSTILE + "test_escapes_are_for_queries_and_names_of_models",
            _HOSTILE + "test_two_credentials_of_one_kind_are_refused",
            _HOSTILE + "test_a_refusal_from_the_head_alone_does_not_wait_for_the_body",
        ),
    ),
    Requirement(
        "admission.connections",
        "platform",
        "Connections on which nothing is asked stop nobody: not callers, not probes, not the journal",
        (
            _CONNECTIONS + "test_thousands_of_idle_connections_stop_nobody",
            _CONNECTIONS + "test_an_idle_connection_costs_little_memory",
        ),
    ),
    Requirement(
        "admission.order",
        "platform",
        "Rate and slot are taken from the head, before the body; a half-sent body counts among a project's requests",
        (
            _SHARES + "test_a_minute_that_is_used_up_is_told_before_a_byte_of_the_body",
            _SHARES + "test_what_is_refused_for_its_body_or_model_is_counted_and_leaves_no_row",
            _SHARES + "test_bodies_that_come_in_count_among_a_projects_requests_at_once",
        ),
    ),
    Requirement(
        "admission.shares",
        "platform",
        "A project holds a share of a process: of its requests, of their bytes, of uploads; the rest is for others",
        (
            _SHARES + "test_half_sent_bodies_hold_bounded_memory_and_only_their_projects_share",
            _SHARES + "test_what_is_declared_but_has_not_come_holds_nothing",
            _SHARES + "test_a_full_process_says_so_and_only_to_those_who_send_much",
            _SHARES + "test_a_project_that_fills_its_share_of_requests_leaves_room_on_every_path",
            _SHARES + "test_stalled_uploads_keep_nobody_from_uploading",
        ),
    ),
)
