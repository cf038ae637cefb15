"""What the gateway must do, and the test that shows it: no requirement without a test.

`source` is an OpenAI or W3C page, an RFC, or `platform` for what the customer asked of the platform.
"""

from dataclasses import dataclass

OPENAI = "https://platform.openai.com/docs/api-reference"


@dataclass(frozen=True)
class Requirement:
    """One line of the contract."""

    requirement_id: str
    source: str
    behaviour: str
    tests: tuple[str, ...]
    """`path::name` of test functions."""


_API = "tests/gateway/api/test_api.py::"
_RELAY = "tests/gateway/test_relay.py::"
_GUARD = "tests/gateway/test_guardrail.py::"
_STREAMS = "tests/guardrails/engine/test_streams.py::"
_CRASH = "tests/operations/test_crash.py::"
_LIVE = "tests/live/test_live.py::"

REQUIREMENTS = (
    Requirement(
        "api.chat",
        f"{OPENAI}/chat",
        "Chat completions, whole and streamed",
        (
            _API + "test_chat_passes_the_answer_on_byte_for_byte",
            _RELAY + "test_a_stream_arrives_as_it_is_made",
            _LIVE + "test_journey",
        ),
    ),
    Requirement("api.completions", f"{OPENAI}/completions", "Completions", (_API + "test_completions_work",)),
    Requirement(
        "api.models",
        f"{OPENAI}/models",
        "Models, only what the key may use",
        (_API + "test_models_are_filtered_by_key", _API + "test_a_model_may_have_another_name_behind_the_door"),
    ),
    Requirement(
        "api.errors",
        f"{OPENAI}/errors",
        "Errors have OpenAI's shape, also 404, 405, 413, 415",
        (
            _API + "test_errors_have_openai_shape_everywhere",
            _API + "test_a_body_over_the_limit_is_413",
            _API + "test_deep_nesting_is_the_callers_error",
            _API + "test_a_trailing_slash_is_another_path",
            _API + "test_a_body_that_does_not_arrive_is_408",
        ),
    ),
    Requirement(
        "api.request-id",
        "platform",
        "x-request-id in and out",
        (_API + "test_only_allowed_headers_go_upstream", _API + "test_a_strange_request_id_is_replaced"),
    ),
    Requirement(
        "api.usage",
        f"{OPENAI}/chat/create",
        "stream_options.include_usage is honoured, and hidden if not asked for",
        (
            _RELAY + "test_usage_is_measured_but_sent_only_if_asked_for",
            _RELAY + "test_usage_is_measured_whatever_stream_options_say",
        ),
    ),
    Requirement(
        "api.untouched",
        "platform",
        "Unknown fields travel both ways untouched",
        (
            _API + "test_request_bytes_go_through_untouched",
            _RELAY + "test_stream_bytes_are_not_changed",
            _LIVE + "test_the_answer_is_the_same_direct_and_through_the_gateway",
        ),
    ),
    Requirement(
        "api.guarded-fields",
        "platform",
        "Fields that reach beyond the request are refused unless the policy opens them",
        (
            _API + "test_fields_that_reach_beyond_the_request_are_refused",
            _API + "test_a_policy_may_allow_a_guarded_field",
        ),
    ),
    Requirement(
        "api.media",
        "platform",
        "Media must be data: URLs",
        (_API + "test_media_must_be_inline", _API + "test_a_policy_may_allow_media_urls"),
    ),
    Requirement(
        "api.headers",
        "platform",
        "Headers go upstream by an allow-list",
        (_API + "test_only_allowed_headers_go_upstream",),
    ),
    Requirement(
        "api.table",
        "platform",
        "Hot paths and FastAPI routes come from one table and are in OpenAPI",
        (
            _API + "test_every_path_of_the_table_is_in_openapi",
            _API + "test_a_crafted_host_header_opens_nothing",
            _API + "test_every_route_needs_a_key_unless_the_table_says_otherwise",
        ),
    ),
    Requirement(
        "api.management",
        "platform",
        "Health on both ports, metrics on the management port only",
        (
            _API + "test_health_and_metrics_have_their_own_port",
            "tests/deploy/test_dashboards.py::test_a_running_gateway_shows_what_dashboards_and_alerts_ask_of_it",
        ),
    ),
    Requirement(
        "auth.keys",
        "RFC 6750",
        "Bearer keys; without a good one nothing is answered",
        (
            _API + "test_without_a_good_key_nothing_is_answered",
            _API + "test_revoked_and_new_keys_take_effect_while_serving",
            "tests/tidegate/store/test_store.py::test_keys_are_stored_as_digests_and_revoked_by_their_project_only",
        ),
    ),
    Requirement(
        "limits.rate",
        "platform",
        "429 with retry-after",
        (
            _API + "test_limits_answer_429_with_retry_after",
            _API + "test_concurrency_is_limited_and_given_back",
            _API + "test_a_full_gateway_says_so",
        ),
    ),
    Requirement(
        "guardrail.pan.input",
        "PCI DSS 3.4",
        "A card number in a prompt is refused or masked",
        (
            _GUARD + "test_answers_in_token_ids_are_refused_where_they_would_have_to_be_read",
            _GUARD + "test_a_card_in_the_prompt_is_refused",
            _GUARD + "test_a_card_in_the_prompt_is_masked_if_the_policy_says_so",
        ),
    ),
    Requirement(
        "guardrail.pan.output",
        "PCI DSS 3.4",
        "A card number never leaves in an answer, however it is cut",
        (
            _GUARD + "test_a_card_in_an_answer_never_arrives",
            _GUARD + "test_completions_are_screened_too",
            _GUARD + "test_a_card_cut_over_chunks_never_arrives",
            _GUARD + "test_a_byte_order_mark_hides_nothing",
            _GUARD + "test_all_texts_of_a_message_stream_are_read",
            _GUARD + "test_an_error_of_the_model_server_shows_no_card",
            _GUARD + "test_an_error_in_a_stream_shows_no_card",
            _GUARD + "test_what_stands_beside_an_events_data_shows_no_card",
            _STREAMS + "test_a_card_cut_in_two_anywhere_never_goes_out",
            _STREAMS + "test_a_card_cut_at_any_places_never_goes_out",
        ),
    ),
    Requirement(
        "guardrail.pan.choice",
        "platform",
        "A finding ends its choice with content_filter, and no other",
        (
            _GUARD + "test_only_the_offending_choice_of_a_stream_ends",
            _GUARD + "test_a_finding_for_one_prompt_ends_no_other",
            _GUARD + "test_a_filtered_stream_stops_the_model_server",
            _STREAMS + "test_only_the_offending_choice_is_ended",
            _GUARD + "test_a_policy_without_guardrails_lets_everything_by",
        ),
    ),
    Requirement(
        "guardrail.pan.delay",
        "platform",
        "Nothing is held back while no digit run is open",
        (
            _STREAMS + "test_nothing_is_delayed_while_no_digit_run_is_open",
            _STREAMS + "test_a_long_row_of_numbers_is_not_held_for_ever",
        ),
    ),
    Requirement(
        "guardrail.pan.lookalikes",
        "platform",
        "Timestamps, order numbers and UUIDs pass",
        (
            _GUARD + "test_lookalikes_pass_both_ways",
            "tests/guardrails/test_pan.py::test_lookalikes_pass",
            "tests/guardrails/test_pan.py::test_false_positives_are_far_fewer_than_luhn_alone",
        ),
    ),
    Requirement(
        "guardrail.closed",
        "platform",
        "A guardrail that does not load stops start-up",
        (
            _GUARD + "test_a_guardrail_that_does_not_exist_stops_start_up",
            "tests/tidegate/test_plugins.py::test_a_plugin_that_does_not_import_stops_start_up",
        ),
    ),
    Requirement(
        "ledger.exact",
        "platform",
        "Exactly one usage row per admitted request, also under kill -9",
        (
            _CRASH + "test_exactly_one_row_per_admitted_request_whenever_the_gateway_is_killed",
            _CRASH + "test_a_killed_gateway_leaves_one_interrupted_row_per_running_request",
            _RELAY + "test_the_metrics_and_the_rows_agree",
        ),
    ),
    Requirement(
        "ledger.cached",
        f"{OPENAI}/chat/object",
        "Cached tokens are metered",
        (
            _RELAY + "test_cached_tokens_reach_the_usage_row",
            _RELAY + "test_absurd_usage_numbers_do_not_stop_the_journal",
            _LIVE + "test_cached_tokens_are_reported_and_metered",
        ),
    ),
    Requirement(
        "ledger.journal",
        "platform",
        "The journal has one owner, survives torn lines and a full disk, and is shipped at the end",
        (
            _CRASH + "test_a_second_gateway_cannot_take_the_same_journal",
            _CRASH + "test_a_torn_journal_line_is_passed_over",
            _CRASH + "test_a_full_disk_stops_new_requests_and_loses_no_row",
            _CRASH + "test_sigterm_lets_a_running_stream_finish",
            _CRASH + "test_a_request_cut_off_by_the_end_of_the_grace_still_has_its_row",
        ),
    ),
    Requirement(
        "ledger.database-away",
        "platform",
        "A database that is away stops no request and loses no row",
        (_CRASH + "test_a_database_that_is_away_stops_no_request_and_loses_no_row",),
    ),
    Requirement(
        "trace.one",
        "https://www.w3.org/TR/trace-context/",
        "One trace from the caller into vLLM",
        (_LIVE + "test_vllms_span_is_below_our_dispatch_span", _LIVE + "test_an_untraced_request_leaves_no_span"),
    ),
    Requirement(
        "logs.no-content",
        "platform",
        "No prompt and no secret in logs or spans",
        (_LIVE + "test_nothing_of_a_key_or_a_prompt_is_in_any_log",),
    ),
    Requirement(
        "config.truth",
        "platform",
        "The database is the truth for resources while serving",
        (_API + "test_the_database_is_the_truth_while_serving",),
    ),
    Requirement(
        "config.mistakes",
        "platform",
        "A mistake is told with its line and the nearest valid name",
        (
            "tests/tidegate/config/test_load.py::test_a_mistake_is_said_with_its_line",
            "tests/tidegate/test_cli.py::test_check_names_line_and_nearest_name",
        ),
    ),
    Requirement(
        "demo.honest",
        "platform",
        "The demo fails and names what failed when the model server is down",
        (_LIVE + "test_the_demo_fails_and_names_the_journeys_when_the_model_server_is_down",),
    ),
    Requirement(
        "demo.clean",
        "platform",
        "Stopping leaves no process behind",
        (_LIVE + "test_stopping_leaves_no_process_behind",),
    ),
    Requirement(
        "package.names",
        "platform",
        "The wheel's top-level names are ours alone",
        (
            "tests/test_packaging.py::test_the_wheel_holds_our_packages_and_nothing_else",
            "tests/test_packaging.py::test_no_other_distribution_owns_our_names",
        ),
    ),
    Requirement(
        "gateway.lean",
        "platform",
        "The gateway imports nothing heavy",
        ("tests/test_architecture.py::test_the_gateway_imports_nothing_heavy",),
    ),
)
