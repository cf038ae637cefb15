"""Finds payment card numbers in text at a bounded cost per character.

A block of text becomes bytes of one class each (`alphabet`), in which ids and fractions are blanked (`lookalikes`). Whole
blocks are then computed as big integers with one byte per character (`lanes`): the separators before each digit (`gaps`),
and the lengths at which a valid number begins there (`issuers`). One regular expression over both finds the numbers
(`shapes`), so that only real ones reach Python code. `tail` says what later text may still change, `scanner` joins it all.
"""
