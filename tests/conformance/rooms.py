"""What the rooms behind the gateway must do: internal identity, documents, agents, tools. See `requirements.py`."""

from tests.conformance.requirements import OPENAI, Requirement

MCP = "https://modelcontextprotocol.io/specification"
_AGENTS = "tests/agents/test_responses.py::"
_CLI = "tests/tidegate/local/test_ingest.py::"
_DOCUMENTS = "tests/gateway/api/test_documents.py::"
_DELEGATION = "tests/gateway/mcp/test_delegation.py::"
_IDENTITY = "tests/tidegate/test_identity.py::"
_KILLED_AGENTS = "tests/operations/test_agents.py::"
_KILLED_KNOWLEDGE = "tests/operations/test_knowledge.py::"
_KNOWLEDGE_SHARES = "tests/operations/test_knowledge_shares.py::"
_LIVE = "tests/live/test_live.py::"
_PARSING = "tests/rag/test_parsing.py::"
_NAMES = "tests/gateway/mcp/test_names.py::"
_PRESETS = "tests/gateway/test_presets.py::"
_SHARES = "tests/gateway/mcp/test_shares.py::"
_SERVICE = "tests/rag/test_service.py::"
_TOKENS = "tests/mcp_servers/test_tokens.py::"
_TOOLS = "tests/gateway/mcp/test_door.py::"


def _needs(requirement_id: str, source: str, behaviour: str, *tests: str) -> Requirement:
    return Requirement(requirement_id, source, behaviour, tests)


ROOMS = (
    _needs(
        "tools.shares", "platform", "One project's tool calls, lists, streams and bodies leave room for the others'",
        _SHARES + "test_stalled_calls_of_one_project_leave_room_for_the_others",
        _SHARES + "test_stalled_lists_count_as_calls",
        _SHARES + "test_tool_calls_have_slots_of_their_own_so_that_a_tool_may_call_models",
        _SHARES + "test_no_stream_is_kept_open",
        _SHARES + "test_half_sent_requests_hold_a_share_of_memory_at_most",
        _SHARES + "test_a_request_is_bounded_before_it_is_parsed",
        _SHARES + "test_many_initializations_do_not_stop_another_project",
    ),
    _needs(
        "platform.names", "platform", "A name that a caller or a model makes up is written down nowhere",
        _NAMES + "test_a_tool_that_no_server_has_listed_is_not_called_and_metered_without_its_name",
        _NAMES + "test_a_call_of_a_server_that_is_away_is_metered_without_the_name",
        _NAMES + "test_a_name_that_a_caller_makes_up_is_left_nowhere",
        _AGENTS + "test_names_that_are_made_up_are_left_nowhere",
    ),
    _needs(
        "identity.token", "RFC 7519", "Tokens live a minute, for one audience, with principal and parent request inside",
        _IDENTITY + "test_a_token_carries_principal_and_parent_request",
        _IDENTITY + "test_a_token_lives_a_minute_at_most",
        _TOKENS + "test_a_token_for_this_server_holds",
        _AGENTS + "test_tokens_are_renewed_while_a_run_lasts_and_only_for_services",
        _DELEGATION + "test_a_delegation_that_is_passed_on_ends_when_the_first_one_does",
        _DELEGATION + "test_no_token_outlives_the_original_deadline",
        _DELEGATION + "test_services_of_every_kind_get_the_original_deadline",
        _DELEGATION + "test_after_the_deadline_nothing_is_done_for_the_caller",
        _DELEGATION + "test_a_tool_that_calls_itself_comes_to_an_end",
    ),
    _needs(
        "identity.refused", "platform", "Wrong audience, expired, tampered, replayed: refused, logged, counted",
        _IDENTITY + "test_replay_at_another_service_is_refused",
        _IDENTITY + "test_an_expired_token_is_refused",
        _IDENTITY + "test_a_tampered_token_is_refused",
        _IDENTITY + "test_other_keys_and_algorithms_are_refused",
        _IDENTITY + "test_a_token_that_lacks_a_claim_is_refused",
        _IDENTITY + "test_what_is_no_token_is_refused",
        _TOKENS + "test_replay_at_another_server_is_refused",
        _TOKENS + "test_a_token_that_is_too_old_or_lacks_a_claim_is_refused",
        _TOKENS + "test_a_tampered_token_is_refused",
        _TOKENS + "test_what_is_no_token_is_refused",
        _SERVICE + "test_tokens_that_do_not_hold_are_refused_logged_and_counted",
        _SERVICE + "test_nothing_is_open_without_a_token",
        _AGENTS + "test_the_agents_service_takes_no_key_and_no_other_services_token",
        _TOOLS + "test_a_tool_server_takes_no_token_but_its_own",
    ),
    _needs(
        "identity.key-stays", "platform", "The caller's own credential never leaves the gateway",
        _DOCUMENTS + "test_the_callers_own_credential_never_leaves_the_gateway",
        _TOOLS + "test_the_callers_key_does_not_reach_a_tool_server_and_delegation_only_where_it_is_allowed",
    ),
    _needs(
        "identity.keys", "platform", "Signing keys are the owner's alone; a missing one is named with what to do",
        _IDENTITY + "test_keys_are_made_once_for_the_owner_only_and_published_without_the_private_part",
        _IDENTITY + "test_missing_or_broken_keys_say_what_to_do",
        _KILLED_KNOWLEDGE + "test_missing_keys_are_named",
    ),
    _needs(
        "documents.api", f"{OPENAI}/vector-stores", "Files and vector stores, by the official client",
        _DOCUMENTS + "test_openais_client_brings_a_document_in_finds_it_and_takes_it_out",
        _DOCUMENTS + "test_upload_and_poll_works",
        _SERVICE + "test_openai_search_page",
        _SERVICE + "test_lists_are_paged",
        _SERVICE + "test_a_store_is_found_by_name_and_by_id",
        _SERVICE + "test_a_file_taken_out_of_a_store_stays_a_file",
        _SERVICE + "test_a_file_added_again_is_cut_anew",
    ),
    _needs(
        "documents.bad-input", "platform", "What cannot be taken is refused with the reason",
        _SERVICE + "test_a_file_that_cannot_be_read_is_refused_with_the_reason",
        _SERVICE + "test_forms_that_are_wrong_are_refused",
        _SERVICE + "test_wrong_bodies_are_the_callers_errors",
        _SERVICE + "test_strange_queries_are_refused_or_answered",
        _DOCUMENTS + "test_strange_ids_do_not_reach_the_service",
        _DOCUMENTS + "test_bodies_are_bounded_and_of_the_right_kind",
        _DOCUMENTS + "test_no_document_path_is_open_without_a_key",
        _DOCUMENTS + "test_the_projects_request_rate_holds_for_documents_too",
        _DOCUMENTS + "test_a_document_request_leaves_one_log_line_and_two_metrics_and_no_ids",
        _DOCUMENTS + "test_when_the_knowledge_service_is_away_the_caller_is_told",
    ),
    _needs(
        "documents.ingest", "platform", "`tidegate ingest` brings in what has changed and tells what failed",
        _CLI + "test_folders_are_brought_in_and_again_only_what_has_changed",
        _CLI + "test_what_an_ended_run_left_twice_is_tidied_up",
        _CLI + "test_files_that_fail_are_told_with_the_reason_and_the_others_come_in",
        _CLI + "test_what_cannot_be_done_is_said_in_a_line",
    ),
    _needs(
        "documents.parsers", "platform", "Parsers run apart, with limits, and are recycled",
        _PARSING + "test_a_document_is_read_in_another_process",
        _PARSING + "test_a_process_is_replaced_after_some_documents",
        _PARSING + "test_a_document_that_takes_too_long_is_given_up_and_the_next_is_read",
        _PARSING + "test_a_document_that_needs_too_much_memory_is_given_up_and_the_next_is_read",
        _PARSING + "test_a_process_that_is_killed_costs_its_document_only",
        _PARSING + "test_a_caller_who_gives_up_leaves_no_process_behind",
        _PARSING + "test_a_document_is_screened_where_it_is_read",
        _PARSING + "test_screening_is_ended_by_the_time_limit",
        _PARSING + "test_kinds_that_nobody_reads_are_named_with_those_that_somebody_does",
    ),
    _needs(
        "documents.jobs", "platform", "Jobs survive kill -9 and end in the same index",
        _KILLED_KNOWLEDGE + "test_jobs_survive_kill_9_and_end_in_the_same_index",
        _KILLED_KNOWLEDGE + "test_a_file_that_ends_the_service_again_and_again_is_given_up",
        _KILLED_KNOWLEDGE + "test_start_stop_and_a_second_process",
    ),
    _needs(
        "documents.build", "platform", "Searches go on while an index is built; a query overtakes ingestion",
        _KILLED_KNOWLEDGE + "test_searches_go_on_while_an_index_is_built_even_if_the_build_is_killed",
        _SERVICE + "test_a_query_overtakes_ingestion",
        "tests/operations/test_knowledge_size.py::test_ten_thousand_files_do_not_hold_the_event_loop",
        "tests/rag/test_embedding.py::test_a_query_waits_for_one_pass_of_ingestion_at_most_and_a_call_goes_before_ingestion",
    ),
    _needs(
        "documents.shares", "platform", "Projects take turns: at the embedder, in builds, in the processes that read files",
        _KNOWLEDGE_SHARES + "test_a_projects_files_do_not_wait_for_another_projects_queue",
        _KNOWLEDGE_SHARES + "test_a_small_index_does_not_wait_for_another_projects_large_one",
        "tests/rag/test_embedding.py::test_projects_take_turns_within_a_priority",
        _PARSING + "test_a_project_neither_holds_every_process_nor_waits_with_more_than_a_few_files",
        _SERVICE + "test_digits_in_uploads_do_not_hold_up_another_projects_searches",
        _SERVICE + "test_an_upload_of_a_client_that_leaves_is_read_no_further",
    ),
    _needs(
        "documents.embedder", "platform", "Vectors of two embedders are never compared",
        _KNOWLEDGE_SHARES + "test_another_embedder_embeds_everything_anew_and_no_search_mixes_the_two",
    ),
    _needs(
        "documents.spans", "platform", "Chunks keep exact character spans, page and heading",
        "tests/rag/test_chunking.py::test_spans_are_exact_nothing_is_lost_and_no_chunk_is_too_long",
        "tests/rag/test_chunking.py::test_no_chunk_crosses_a_section",
        "tests/rag/test_chunking.py::test_chunks_end_at_sentences_and_overlap",
        "tests/rag/test_chunking.py::test_long_text_is_cut_in_stretches",
        _SERVICE + "test_a_citation_leads_to_its_text",
    ),
    _needs(
        "documents.hybrid", "platform", "Search by meaning and by words, fused",
        _SERVICE + "test_the_handbook_answers",
        _SERVICE + "test_words_count_as_well_as_meaning",
    ),
    _needs(
        "documents.several", "platform", "Several stores are one search; results of searches are never merged by score",
        _SERVICE + "test_several_stores_are_searched_as_one",
        _SERVICE + "test_a_search_over_several_stores_names_stores_of_the_project_by_id",
        _AGENTS + "test_file_search_looks_through_all_stores_in_one_search",
        _TOOLS + "test_the_knowledge_tool_looks_through_all_stores_in_one_search",
    ),
    _needs(
        "documents.rights", "platform", "A project sees its own documents and no others",
        _SERVICE + "test_another_project_sees_nothing",
        _SERVICE + "test_the_same_name_in_two_projects_means_two_stores",
        _SERVICE + "test_stores_of_one_project_do_not_mix",
        _DOCUMENTS + "test_another_key_of_another_project_sees_none_of_it",
        _PRESETS + "test_another_project_is_searched_with_its_own_rights",
        _AGENTS + "test_a_store_of_another_project_is_not_found",
        _TOOLS + "test_the_knowledge_tools_search_with_the_callers_rights",
    ),
    _needs(
        "documents.forgotten", "platform", "What is deleted is not found at once, and gone from the disk soon after",
        _SERVICE + "test_a_deleted_file_is_not_found_any_more_at_once_and_nothing_of_it_is_left",
    ),
    _needs(
        "documents.guardrails", "PCI DSS 3.4", "Guardrails read file names, documents, queries and what is retrieved",
        _SERVICE + "test_a_card_number_over_table_cells_is_found_in_the_text_that_is_kept",
        _SERVICE + "test_a_card_number_is_refused_and_nowhere_kept",
        _SERVICE + "test_what_a_reader_does_not_see_is_not_kept",
        _SERVICE + "test_a_policy_that_masks_keeps_the_masked_text_with_true_spans",
        _SERVICE + "test_passages_are_screened_by_the_policy_of_today",
        _DOCUMENTS + "test_guardrails_read_file_names_files_and_bodies",
    ),
    _needs(
        "embeddings", f"{OPENAI}/embeddings", "Embeddings are routed like a replica and metered like any call",
        _DOCUMENTS + "test_embeddings_are_routed_and_metered_like_any_call",
        _SERVICE + "test_embeddings_in_both_encodings",
        _SERVICE + "test_embeddings_that_cannot_be_made_are_refused",
    ),
    _needs(
        "presets", "platform", "A preset searches documents for a chat client that knows nothing of it",
        _PRESETS + "test_the_model_is_shown_prompt_rule_and_passages",
        _PRESETS + "test_presets_are_models_of_the_keys_that_may_use_them",
        _PRESETS + "test_a_preset_without_documents_adds_its_prompt_only",
        _PRESETS + "test_the_passages_fit_the_presets_budget",
        _PRESETS + "test_content_parts_and_earlier_turns_are_kept",
        _PRESETS + "test_a_presets_request_is_metered_with_what_was_sent",
    ),
    _needs(
        "presets.data", "platform", "Retrieved text is marked as data and cannot close its own markers",
        _PRESETS + "test_retrieved_text_cannot_close_its_own_markers",
        _AGENTS + "test_file_search_finds_shows_and_cites_what_it_gave",
    ),
    _needs(
        "presets.citations", "platform", "Citations stand in a field and a chunk that other clients survive",
        _PRESETS + "test_citations_stand_in_the_message",
        _PRESETS + "test_citations_of_a_stream_come_in_one_chunk_before_the_end",
        _PRESETS + "test_openais_client_survives_the_citations",
        _PRESETS + "test_langchains_client_survives_the_citations",
    ),
    _needs(
        "presets.refused", "platform", "What a preset cannot answer is refused; without its documents it does not guess",
        _PRESETS + "test_a_store_that_does_not_exist_is_the_callers_to_know",
        _PRESETS + "test_a_request_without_a_question_is_refused",
        _PRESETS + "test_presets_are_for_chat",
        _PRESETS + "test_the_callers_question_passes_the_guardrails_first",
        _PRESETS + "test_without_the_knowledge_service_a_preset_is_unavailable_and_a_model_is_not",
    ),
    _needs(
        "responses.api", f"{OPENAI}/responses", "Responses whole and streamed, kept, retrieved, continued, deleted",
        _AGENTS + "test_a_plain_answer_whole_and_streamed",
        _AGENTS + "test_the_response_object_has_what_clients_require",
        _AGENTS + "test_a_conversation_goes_on_from_the_previous_response",
        _AGENTS + "test_kept_responses_are_retrieved_and_deleted_by_their_project_alone",
        _AGENTS + "test_what_is_not_offered_is_refused_and_never_ignored",
        _AGENTS + "test_refusals_of_the_door_keep_their_status",
        _AGENTS + "test_deep_nesting_is_the_callers_error",
    ),
    _needs(
        "responses.at-rest", "platform", "A project may forbid keeping, and sets for how long",
        _AGENTS + "test_a_project_may_forbid_keeping_and_set_its_days",
    ),
    _needs(
        "responses.tools", f"{OPENAI}/responses", "Functions, file search and hosted servers; a forced choice holds once",
        _AGENTS + "test_a_hosted_tool_is_called_and_its_result_goes_to_the_model",
        _AGENTS + "test_two_parallel_calls_are_both_run",
        _AGENTS + "test_the_clients_own_function_ends_the_run_and_its_output_goes_on",
        _AGENTS + "test_without_keeping_the_client_sends_the_calls_back_himself",
        _AGENTS + "test_mixed_calls_leave_ours_unrun_and_the_conversation_whole",
    ),
    _needs(
        "responses.faults", "platform", "A tool that fails is told to the model; a model that fails ends the run",
        _AGENTS + "test_a_tool_that_fails_is_told_to_the_model_and_the_run_goes_on",
        _AGENTS + "test_a_server_that_dies_in_the_middle_fails_the_call_and_not_the_run",
        _AGENTS + "test_a_model_that_breaks_off_fails_the_response",
        _AGENTS + "test_a_call_that_was_cut_is_not_run",
        _AGENTS + "test_a_model_that_says_a_card_number_is_ended_and_no_tool_is_called",
        _KILLED_AGENTS + "test_runs_that_are_killed_are_told_stop_the_model_and_lose_nothing_that_was_kept",
        _KILLED_AGENTS + "test_a_stop_in_good_order_lets_a_run_finish",
        _KILLED_AGENTS + "test_runs_that_outlast_the_grace_are_cut_off_and_written_down",
    ),
    _needs(
        "responses.bounds", "platform", "Turns, tool calls and runs at once are bounded",
        _AGENTS + "test_max_tool_calls_holds",
        _AGENTS + "test_a_run_without_end_is_ended",
        _AGENTS + "test_runs_at_once_are_bounded_and_no_project_has_all_of_them",
    ),
    _needs(
        "responses.cancel", "platform", "A caller who leaves stops model and tool",
        _AGENTS + "test_a_caller_who_leaves_during_a_tool_call_cancels_the_tool",
        _AGENTS + "test_a_caller_who_leaves_during_a_model_call_stops_the_model",
        _AGENTS + "test_a_caller_who_leaves_in_mid_stream_stops_the_model",
    ),
    _needs(
        "responses.metered", "platform", "One usage row per model and tool call, below the run's request",
        _AGENTS + "test_three_turns_and_one_usage_row_per_model_and_tool_call",
    ),
    _needs(
        "tools.list", f"{MCP}, tools", "Tools of all servers a key may use, in both protocol eras",
        _TOOLS + "test_tools_of_all_servers_are_listed_in_order_under_their_servers_names",
        _TOOLS + "test_one_servers_tools_keep_their_own_names",
        _TOOLS + "test_a_key_sees_and_calls_only_what_its_project_may",
        _TOOLS + "test_strange_tool_names_reach_no_server",
        _TOOLS + "test_a_server_that_is_down_is_an_error_and_not_a_shorter_list",
    ),
    _needs(
        "tools.door", "RFC 9728", "Without credentials a client learns where to get them; foreign origins are refused",
        _TOOLS + "test_without_credentials_a_client_learns_where_to_get_them",
        _TOOLS + "test_only_the_tools_have_a_metadata_document",
        _TOOLS + "test_a_web_page_of_another_origin_is_refused",
        _TOOLS + "test_nothing_that_is_not_mcp_breaks_the_door",
    ),
    _needs(
        "tools.bounds", "platform", "Calls are bounded in time, size and rate, and cancelled when the caller leaves",
        _TOOLS + "test_a_tool_that_hangs_is_ended_by_the_time_limit",
        _TOOLS + "test_a_result_that_is_too_large_is_an_error",
        _TOOLS + "test_a_caller_who_hangs_up_cancels_the_tool",
        _TOOLS + "test_a_tools_own_error_is_passed_on",
        _TOOLS + "test_the_projects_request_rate_holds_for_tools_too",
    ),
    _needs(
        "tools.guardrails", "PCI DSS 3.4", "Guardrails read arguments and results",
        _TOOLS + "test_guardrails_read_arguments_and_results",
    ),
    _needs(
        "tools.metered", "platform", "Each call has one usage row",
        _TOOLS + "test_each_call_is_metered_once_and_lists_are_not",
    ),
    _needs(
        "tools.calendar", "platform", "Business days and holidays",
        *(f"tests/mcp_servers/test_calendar.py::test_{name}" for name in (
            "business_days_are_added", "a_holiday_is_named", "business_days_between", "holidays_are_listed",
            "wrong_questions_are_answered_with_what_is_wrong",
        )),
    ),
    _needs(
        "at-rest.canary", "PCI DSS 3.4", "A card number is nowhere, a sentence only where a policy stores it, and no longer",
        _LIVE + "test_canaries_take_every_way_and_leave_no_trace_in_the_metrics",
        "tests/live/test_canary.py::test_needles_are_found_raw_and_in_base64_wherever_they_stand",
        _LIVE + "test_the_card_number_is_nowhere_and_each_sentence_only_where_a_policy_stores_it",
    ),
    _needs("trace.journey", "platform", "One trace from an agent's caller to vLLM and to the index", _LIVE + "test_journey"),
)  # fmt: skip
