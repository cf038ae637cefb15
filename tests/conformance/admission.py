"""Who gets in, in what order, and what each caller may hold. See `requirements.py`."""

from tests.conformance.requirements import Requirement

_HOSTILE = "tests/gateway/test_hostile.py::"
_CONNECTIONS = "tests/operations/test_connections.py::"

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
)
