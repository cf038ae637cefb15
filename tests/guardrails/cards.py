"""Test card numbers, none of them anybody's, and their printed forms."""


def complete(digits: str) -> str:
    """`digits` with the check digit that makes Luhn hold."""
    total = 0
    for position, char in enumerate(reversed(digits + "0")):
        value = int(char) * (2 if position % 2 else 1)
        total += value - 9 if value > 9 else value
    return digits + str(-total % 10)


CARDS = [
    "4111111111111111",
    "4222222222222",
    complete("400000000000000000"),
    "5555555555554444",
    "2223003122003222",
    complete("272099999999999"),
    "378282246310005",
    "371449635398431",
    "30569309025904",
    "38520000023237",
    "6011111111111117",
    "3530111333300000",
    complete("621234567890123"),
    complete("621234567890123456"),
    complete("220012345678901"),
    complete("501812345678"),
]


def groupings(card: str) -> list[list[str]]:
    """Whole, in fours, and as American Express and Diners print theirs."""
    fours = [card[at : at + 4] for at in range(0, len(card), 4)]
    found = [[card], fours]
    if len(card) in (14, 15):
        found.append([card[:4], card[4:10], card[10:]])
    return found
