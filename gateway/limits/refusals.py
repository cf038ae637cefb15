"""What a caller is told who has reached a limit."""

from tidegate.errors import RateLimited


def too_many_per_minute(per_minute: int, wait_s: float) -> RateLimited:
    """The minute is used up; in `wait_s` there is room for another request."""
    return RateLimited(
        f"The project has used its {per_minute} requests per minute. Try again in {wait_s:.1f} s.", retry_after_s=wait_s
    )


def too_many_at_once(most: int) -> RateLimited:
    """All slots are taken."""
    return RateLimited(f"The project already runs its {most} requests at once.", retry_after_s=1)
