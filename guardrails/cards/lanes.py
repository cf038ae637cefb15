"""Arithmetic on all characters of a block in one step: integers with one byte, a lane, per character.

Lane i holds character i (little-endian), so `value >> 8 * k` brings character i + k into lane i. Addition and logic on an
integer of n lanes cost some 0.1 ns per lane, hundreds of times less than a loop; no lane may overflow into the next.
"""

LANE = 8


def lanes(values: bytes) -> int:
    """`values`, one per lane."""
    return int.from_bytes(values, "little")


def full(count: int) -> int:
    """`count` lanes of 0xFF."""
    return (1 << LANE * count) - 1


def after(value: int, count: int) -> int:
    """Brings what stands `count` characters later into each lane; zero past the end."""
    return value >> LANE * count


def before(value: int, count: int) -> int:
    """Brings what stood `count` characters earlier into each lane; zero before the beginning. Lanes are added at the end."""
    return value << LANE * count


def run_of(mask: int, count: int) -> int:
    """Lanes from which `mask` holds for `count` lanes on. O(log count) operations."""
    done = 1
    while done * 2 <= count:
        mask &= after(mask, done)
        done *= 2
    return mask & after(mask, count - done) if done < count else mask


def spread(mask: int, count: int) -> int:
    """Extends each marked lane over `count` lanes. O(log count) operations."""
    done = 1
    while done * 2 <= count:
        mask |= before(mask, done)
        done *= 2
    return mask | before(mask, count - done) if done < count else mask
