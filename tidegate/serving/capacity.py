"""How many connections a port may hold, so that the process keeps descriptors for what else it does."""

import resource

RESERVED_DESCRIPTORS = 128
"""For the database, the journal, logs, child processes and the management port's `MANAGEMENT_CONNECTIONS`."""
MANAGEMENT_CONNECTIONS = 32
_MIN_CONNECTIONS = 16


def connection_limit(max_connections: int) -> int:
    """The public port's limit: `max_connections`, or what RLIMIT_NOFILE leaves room for if that is less.

    Each connection may need a second descriptor, to the server that serves its request. Raises the process's soft limit to
    its hard one first.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * max_connections + RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return max_connections
    return max(_MIN_CONNECTIONS, min(max_connections, (soft - RESERVED_DESCRIPTORS) // 2))
