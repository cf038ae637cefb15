"""What the gateway's processes must do when they stop, die, are replaced, or are several. See `requirements.py`."""

from tests.conformance.requirements import Requirement

_DRAIN = "tests/operations/test_drain.py::"
_ROUTER = "tests/operations/test_haproxy.py::"
_CONTRACT = "tests/deploy/test_contract.py::"
_LIMITS = "tests/operations/test_limits.py::"
_PREFLIGHT = "tests/deploy/test_preflight.py::"
_COST = "tests/operations/test_cost.py::"
_WORKERS = "tests/operations/test_workers.py::"

PROCESSES = (
    Requirement(
        "processes.drain",
        "platform",
        "SIGTERM: readiness first, then no new requests, then the end of what takes too long; rows are shipped",
        (
            _DRAIN + "test_readiness_fails_first_while_everything_is_served",
            _DRAIN + "test_then_new_requests_are_refused_and_running_ones_finish",
            _DRAIN + "test_what_is_left_at_the_deadline_gets_a_last_event_that_says_so",
            _DRAIN + "test_a_whole_answer_that_takes_too_long_is_refused_at_the_deadline",
            _DRAIN + "test_a_second_signal_does_not_wait",
            _DRAIN + "test_idle_connections_do_not_hold_up_the_end",
        ),
    ),
    Requirement(
        "processes.router",
        "platform",
        "Behind HAProxy nobody notices a rolling restart, and a silent stream is not cut; what it hides is known",
        (
            _ROUTER + "test_nobody_notices_ten_rolling_restarts",
            _ROUTER + "test_a_silent_stream_outlives_the_routers_patience",
            _ROUTER + "test_a_whole_answer_does_not",
            _ROUTER + "test_a_hang_up_reaches_the_gateway_only_with_abortonclose",
        ),
    ),
    Requirement(
        "processes.workers",
        "platform",
        "Several workers are as one: limits and metrics are common, a dead one is replaced, a reload drops nothing",
        (
            _WORKERS + "test_several_workers_without_shared_limits_refuse_to_start",
            _WORKERS + "test_all_workers_serve_and_their_metrics_and_rows_add_up",
            _WORKERS + "test_a_limit_holds_for_all_workers_together",
            _WORKERS + "test_slots_hold_for_all_workers_and_a_killed_one_gives_its_own_back",
            _WORKERS + "test_a_killed_worker_is_replaced_and_makes_no_counter_fall",
            _WORKERS + "test_a_reload_drops_neither_request_nor_stream",
            _WORKERS + "test_reloads_are_not_noticed_by_who_keeps_a_connection_or_is_slow_to_use_a_new_one",
            _WORKERS + "test_a_bad_configuration_changes_nothing",
            _WORKERS + "test_stopping_waits_for_every_worker_and_ships_their_journals",
            _WORKERS + "test_workers_end_when_their_supervisor_is_killed",
        ),
    ),
    Requirement(
        "processes.limits",
        "platform",
        "Gateways that share a Redis are as one where limits are concerned, and what happens without it is bounded",
        (
            _LIMITS + "test_a_minute_is_one_for_all_gateways",
            _LIMITS + "test_every_door_counts_in_the_same_minute",
            _LIMITS + "test_slots_are_given_back_by_who_ends_hangs_up_stops_or_is_killed",
            _LIMITS + "test_who_asks_one_after_the_other_is_never_refused_wherever_he_asks",
            _LIMITS + "test_no_more_than_the_limit_run_whatever_the_order",
            _LIMITS + "test_who_leaves_while_the_store_is_asked_holds_nothing",
            _LIMITS + "test_without_the_store_each_allows_its_share_and_what_runs_counts_when_it_is_back_empty",
            _LIMITS + "test_a_share_of_a_minute_is_what_is_left_of_it",
            _LIMITS + "test_a_store_that_hangs_is_waited_for_once",
            _LIMITS + "test_who_wants_nothing_uncounted_is_obeyed",
            _LIMITS + "test_workers_share_them_as_gateways_do",
            _LIMITS + "test_a_gateway_starts_without_its_store_but_not_against_its_will",
            _LIMITS + "test_the_store_is_spoken_to_in_tls_by_a_user_that_may_do_no_more_than_it_must",
        ),
    ),
    Requirement(
        "processes.containers",
        "platform",
        "Every process starts, answers and stops as its manifest says, confined as restricted-v2 confines it",
        (
            _CONTRACT + "test_the_gateway_starts_answers_and_stops",
            _CONTRACT + "test_every_other_process_starts_and_stops",
            _CONTRACT + "test_what_is_written_where_no_volume_is_fails",
            "tests/live/test_container.py::test_vllm_starts_answers_and_stops",
        ),
    ),
    Requirement(
        "processes.preflight",
        "platform",
        "Before an install, what is missing or wrong in the target is said, with what to do about it",
        (
            _PREFLIGHT + "test_what_is_wrong_is_said_with_what_to_do",
            _PREFLIGHT + "test_the_command_asks_the_cluster_that_oc_is_logged_in_to",
            "tests/deploy/test_preflight_services.py::test_the_database_is_seen_as_it_is",
            "tests/deploy/test_preflight_services.py::test_the_store_of_limits_is_asked_whether_it_takes_what_is_counted",
            "tests/live/test_before_install.py::test_vllm_knows_its_options_and_serves_its_model",
            "tests/live/test_before_install.py::test_the_running_stacks_own_configuration_passes",
        ),
    ),
    Requirement(
        "processes.cost",
        "platform",
        "A request costs no more than it did, and leaves nothing behind",
        (
            _COST + "test_a_request_costs_no_more_than_was_recorded_beside_a_bare_relay",
            _COST + "test_memory_sockets_and_tasks_stay_as_they_are",
        ),
    ),
)
