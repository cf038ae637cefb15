"""What the path between a caller and a model server must do: the requirements of the relay. See `requirements.py`."""

from tests.conformance.requirements import Requirement

_DISCOVERY = "tests/operations/test_discovery.py::"
_DOCUMENTS = "tests/gateway/api/test_documents.py::"
_FAULTS = "tests/operations/test_faults.py::"
_GUARD = "tests/gateway/test_guardrail.py::"
_LEAVES = "tests/operations/test_cancellation.py::"
_LIVE = "tests/live/test_live.py::"
_RELAY = "tests/gateway/test_relay.py::"
_SURFACE = "tests/gateway/api/test_surface.py::"
_UPLOAD = "tests/gateway/test_upload.py::"
_SCREENING = "tests/gateway/test_screening.py::"
_HOSTILE = "tests/gateway/test_hostile.py::"
_PRESETS = "tests/gateway/test_presets.py::"
_POOL = "tests/tidegate/serving/test_process_pool.py::"
_REQUESTS = "tests/guardrails/engine/test_requests.py::"

RELAY = (
    Requirement(
        "relay.discovery",
        "platform",
        "Every address of a replica's name is a model server of its own, and what they work on is told by model",
        (
            _DISCOVERY + "test_every_address_of_a_name_is_a_replica_of_its_own",
            _DISCOVERY + "test_a_stream_outlives_the_name_of_its_replica",
            _DISCOVERY + "test_a_name_that_is_not_known_any_more_changes_nothing",
            _DISCOVERY + "test_a_name_that_is_not_known_yet_is_an_error_until_it_is",
            _RELAY + "test_what_waits_and_what_runs_is_told_by_model_until_it_ends",
        ),
    ),
    Requirement(
        "relay.cancel",
        "platform",
        "A caller who leaves stops the model server",
        (
            _RELAY + "test_a_caller_who_hangs_up_stops_the_model_server",
            _RELAY + "test_an_image_is_not_counted_as_text",
            _LIVE + "test_a_caller_who_hangs_up_stops_vllm",
            _LEAVES + "test_who_leaves_stops_the_model_server",
            _LEAVES + "test_who_leaves_while_a_connection_is_opened_is_written_down_at_once",
            _LEAVES + "test_who_leaves_between_two_attempts_gets_no_further_one",
            _LEAVES + "test_who_leaves_while_a_preset_searches_stops_there",
            _LEAVES + "test_who_leaves_without_having_read_stops_the_model_server",
            _LEAVES + "test_who_leaves_during_an_attempt_at_the_second_replica_stops_that_one",
        ),
    ),
    Requirement(
        "relay.pool",
        "RFC 9112 section 9.3",
        "Connections are kept; a dead one is replaced once",
        (
            _RELAY + "test_a_connection_is_kept_and_used_again",
            _RELAY + "test_a_connection_closed_before_the_answer_is_not_tried_for_ever",
            _FAULTS + "test_fault_dead_pooled_connection",
            _FAULTS + "test_a_connection_on_which_a_body_was_left_unsent_is_not_used_again",
            _FAULTS + "test_fault_more_than_one_answer",
        ),
    ),
    Requirement(
        "relay.faults",
        "docs/faults.md",
        "A fault of the model server has a status, a code and a word on trying again; no broken stream looks complete",
        (
            _FAULTS + "test_the_caller_sees_what_the_table_says",
            _FAULTS + "test_a_stream_that_breaks_off_is_written_down_as_that",
            _FAULTS + "test_every_row_of_the_second_table_has_a_test_named_after_it",
            _FAULTS + "test_a_stream_that_fails_leaves_no_connection_behind",
            _LIVE + "test_errors_of_the_model_server_are_passed_on",
        ),
    ),
    Requirement(
        "relay.failover",
        "docs/faults.md",
        "Another replica takes over before the first event, within a budget and the deadline",
        (
            _FAULTS + "test_another_replica_takes_over_where_the_table_says_so",
            _FAULTS + "test_fault_upstream_restarts",
            _FAULTS + "test_fault_all_replicas_down",
            _FAULTS + "test_retries_have_a_budget",
            _FAULTS + "test_no_attempt_goes_beyond_the_deadline",
            _FAULTS + "test_a_timeout_that_is_no_number_is_refused",
        ),
    ),
    Requirement(
        "relay.health",
        "docs/faults.md",
        "Replicas are judged by their answers: ejected, probed, back by degrees",
        (
            _FAULTS + "test_fault_stuck_while_healthy",
            _FAULTS + "test_a_replica_that_came_back_is_probed_and_serves_again",
        ),
    ),
    Requirement(
        "relay.silence",
        "docs/faults.md",
        "A silent stream gets comments, so that routers do not cut it",
        (
            _FAULTS + "test_a_silent_stream_gets_comments_and_may_still_fail_over",
            _FAULTS + "test_a_silence_in_mid_stream_gets_comments_too",
            _FAULTS + "test_a_stream_that_goes_on_in_bursts_is_not_silent",
        ),
    ),
    Requirement(
        "relay.surface",
        "https://docs.vllm.ai (online serving)",
        "Every path of vLLM's public API is there, checked and metered, and nothing else of it",
        (
            _SURFACE + "test_every_path_of_a_model_server_is_asked_here",
            _SURFACE + "test_every_path_passes_request_and_answer_on_byte_for_byte",
            _SURFACE + "test_every_path_checks_key_model_and_guardrails",
            _SURFACE + "test_a_path_that_generates_nothing_is_never_a_stream",
            _SURFACE + "test_nothing_else_of_a_model_server_is_reachable",
            _SURFACE + "test_media_that_the_model_server_would_fetch_is_refused_on_every_path",
            _SURFACE + "test_a_tool_that_speaks_of_urls_is_no_media",
        ),
    ),
    Requirement(
        "relay.messages",
        "https://docs.anthropic.com/en/api/messages",
        "Anthropic's Messages API: streams, usage, errors and guardrails in its own words",
        (
            _SURFACE + "test_messages_stream_as_they_are_made",
            _SURFACE + "test_messages_tell_what_came_from_the_cache",
            _SURFACE + "test_a_message_stream_without_an_end_is_an_error",
            _SURFACE + "test_a_card_number_does_not_leave_in_a_message_stream",
            _SURFACE + "test_a_card_number_does_not_leave_in_a_whole_message",
            _SURFACE + "test_anthropics_header_carries_the_key",
            _SURFACE + "test_the_key_in_anthropics_header_never_goes_on",
        ),
    ),
    Requirement(
        "relay.one-reading",
        "RFC 7578",
        "A form is read as the model server reads it, or refused: charset, names, padding, guarded fields",
        (
            _UPLOAD + "test_a_form_is_utf_8_and_nothing_else",
            _UPLOAD + "test_the_content_type_goes_upstream_in_one_form_only",
            _UPLOAD + "test_a_form_that_parsers_may_read_differently_is_refused",
            _UPLOAD + "test_nothing_stands_around_a_form",
            _UPLOAD + "test_guarded_fields_are_guarded_in_forms_too",
            _UPLOAD + "test_what_common_clients_send_is_passed_on",
            _UPLOAD + "test_a_stream_is_whatever_the_model_server_takes_for_one",
            _DOCUMENTS + "test_a_form_in_another_charset_is_refused",
            "tests/gateway/test_forms.py::test_an_accepted_form_has_one_reading",
        ),
    ),
    Requirement(
        "relay.upload",
        "https://platform.openai.com/docs/api-reference/audio",
        "Sound files are passed on as they come, checked on their way, never held whole",
        (
            _UPLOAD + "test_a_form_is_passed_on_byte_for_byte",
            _UPLOAD + "test_openais_client_uploads",
            _UPLOAD + "test_a_file_is_sent_on_while_it_arrives_and_never_held",
            _UPLOAD + "test_the_model_may_come_after_a_small_file",
            _UPLOAD + "test_a_model_may_have_another_name_behind_the_door",
            _UPLOAD + "test_a_form_that_must_not_pass_does_not",
            _UPLOAD + "test_only_a_form_is_taken",
            _UPLOAD + "test_a_form_has_a_limit",
            _UPLOAD + "test_who_hangs_up_in_mid_upload_leaves_nothing_behind",
            _UPLOAD + "test_who_hangs_up_during_an_early_answer_leaves_nothing_behind",
            _UPLOAD + "test_a_model_server_that_breaks_off_while_the_form_is_awaited_is_told_at_once",
            _UPLOAD + "test_a_model_server_that_takes_nothing_has_failed",
            _UPLOAD + "test_a_form_that_stops_coming_is_408",
            _UPLOAD + "test_an_answer_before_the_end_of_the_form_is_passed_on",
            _UPLOAD + "test_a_transcript_may_stream",
            _UPLOAD + "test_a_card_number_that_was_heard_is_masked",
        ),
    ),
    Requirement(
        "relay.fidelity",
        "docs/conformance.md",
        "Answers and requests travel byte for byte, however written and however cut",
        (
            "tests/gateway/test_fidelity.py::test_recorded_answers_come_out_equal",
            "tests/gateway/test_fidelity.py::test_recorded_streams_come_out_equal",
            "tests/gateway/test_fidelity.py::test_recorded_streams_pass_the_guardrails_unchanged",
            "tests/gateway/test_fidelity.py::test_usage_that_was_not_asked_for_is_taken_out_and_nothing_else",
            "tests/gateway/test_fidelity.py::test_running_counts_reach_who_asks_for_them",
            "tests/gateway/test_fidelity.py::test_any_stream_cut_anywhere_comes_out_equal",
            "tests/gateway/test_fidelity.py::test_five_megabytes_pass_unchanged_and_are_not_copied_about",
            "tests/gateway/test_fidelity.py::test_an_answer_of_the_fake_and_of_vllm_have_the_same_form",
            "tests/live/test_contract.py::test_absurd_numbers_are_the_callers_fault_and_hurt_nobody",
            "tests/live/test_contract.py::test_the_recorded_answers_are_still_what_vllm_says",
        ),
    ),
    Requirement(
        "relay.hostile",
        "RFC 9112",
        "Hostile and broken requests are refused in clear words, and nobody else notices",
        (
            "tests/gateway/test_hostile.py::test_what_two_servers_may_read_in_two_ways_is_refused",
            "tests/operations/test_fuzz_http.py::test_mutated_requests_are_read_as_h11_reads_them_or_refused",
            "tests/gateway/test_hostile.py::test_an_old_version_knows_no_chunks_and_a_new_one_needs_a_host",
            "tests/gateway/test_hostile.py::test_a_trailer_is_no_header",
            "tests/gateway/test_hostile.py::test_heads_and_what_is_no_body_are_bounded",
            "tests/gateway/test_hostile.py::test_a_head_that_is_large_is_told_so",
            "tests/gateway/test_hostile.py::test_nonsense_is_told_so_and_goes_nowhere",
            "tests/gateway/test_hostile.py::test_what_only_looks_like_nonsense_passes",
            "tests/gateway/test_hostile.py::test_nobody_notices_the_nonsense_of_others",
        ),
    ),
    Requirement(
        "relay.large_requests",
        "platform",
        "What is expensive to check is checked in processes apart, fairly, and only as long as somebody waits for it",
        (
            _SCREENING + "test_other_requests_are_served_while_ten_megabytes_of_digits_are_checked",
            _SCREENING + "test_a_disconnect_ends_the_check",
            _SCREENING + "test_the_deadline_ends_the_check",
            _SCREENING + "test_a_check_that_needs_too_much_is_refused_and_the_next_is_done",
            _SCREENING + "test_a_process_that_is_killed_is_tried_once_more_and_then_told",
            _SCREENING + "test_one_projects_checks_do_not_hold_up_anothers",
            _SCREENING + "test_no_process_outlives_the_gateway",
            _HOSTILE + "test_a_body_that_is_slow_to_read_holds_nobody_up",
            _POOL + "test_projects_take_turns_and_none_holds_every_process",
            _POOL + "test_what_waits_of_one_project_is_bounded_in_number_and_bytes",
            _POOL + "test_memory_is_bounded_and_a_process_that_has_grown_is_replaced",
            _POOL + "test_cancelling_kills_the_process",
        ),
    ),
    Requirement(
        "relay.one_reading",
        "platform",
        "Fields that the gateway acts on have one reading, and what a policy cannot screen does not pass",
        (
            _HOSTILE + "test_a_field_that_is_acted_on_occurs_once_however_it_is_spelled",
            _HOSTILE + "test_usage_is_asked_for_whatever_a_client_says_of_it",
            _HOSTILE + "test_what_gets_past_a_policy_is_refused_in_bodies_of_any_size",
            _HOSTILE + "test_whether_a_trace_is_recorded_is_not_the_clients_to_say",
            _REQUESTS + "test_text_that_looks_like_media_is_searched",
            _REQUESTS + "test_digits_that_the_model_reads_as_one_number_are_one",
            _REQUESTS + "test_numbers_that_only_stand_near_each_other_are_not_one",
            _REQUESTS + "test_prompts_that_are_no_text_are_refused_where_they_would_have_to_be_read",
            _REQUESTS + "test_the_cache_key_of_media_is_a_guarded_field",
            _PRESETS + "test_a_presets_prompt_is_not_shown",
            _PRESETS + "test_a_large_request_to_a_preset_is_answered_unless_it_has_too_many_values",
        ),
    ),
    Requirement(
        "relay.conformance",
        "docs/conformance.md",
        "Clients see the same direct and through the gateway; no path of vLLM is reachable by accident",
        (
            "tests/live/test_contract.py::test_openais_client_sees_the_same",
            "tests/live/test_contract.py::test_anthropics_client_sees_the_same",
            "tests/live/test_contract.py::test_openais_client_for_node_sees_the_same",
            "tests/live/test_contract.py::test_langchains_standard_tests_have_the_same_verdicts",
            "tests/live/test_contract.py::test_every_path_of_the_running_vllm_is_served_or_shut_off_on_purpose",
        ),
    ),
    Requirement(
        "relay.schema",
        "https://spec.openapis.org",
        "No request made from our OpenAPI page ends in a 500",
        ("tests/operations/test_schema.py::test_no_request_made_from_our_openapi_page_ends_in_a_500",),
    ),
    Requirement(
        "relay.flow-control",
        "platform",
        "A slow reader holds the model server back",
        (
            _RELAY + "test_a_slow_reader_holds_the_model_server_back",
            _RELAY + "test_a_caller_who_takes_nothing_is_let_go_in_the_end",
            "tests/operations/test_slow_readers.py::test_two_hundred_slow_readers_are_held_in_bounded_memory",
            _GUARD + "test_a_huge_request_full_of_numbers_holds_nobody_up",
        ),
    ),
)
