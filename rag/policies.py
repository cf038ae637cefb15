"""The policies of projects, as the database has them now."""

import asyncio

from guardrails.engine.policy import Policy, build_policy
from tidegate.config.resources import Resources
from tidegate.errors import OperatorError
from tidegate.store.resources import CurrentResources


class Policies:
    """Looks policies up by name; builds them anew when they have changed."""

    def __init__(self, resources: CurrentResources) -> None:
        self._resources = resources
        self._built_from: Resources | None = None
        self._policies: dict[str, Policy] = {}

    async def named(self, name: str) -> Policy:
        """The policy `name`.

        Raises:
            OperatorError: there is none, or the database is away.
        """
        found = await self._resources.read()
        if found is not self._built_from:
            built = await asyncio.to_thread(lambda: {policy.name: build_policy(policy) for policy in found.policies})
            self._policies, self._built_from = built, found
        if name not in self._policies:
            raise OperatorError("The policy of this project does not exist any more.")
        return self._policies[name]
