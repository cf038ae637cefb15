"""Measurements, side by side with rivals in one run; never part of the tests."""
