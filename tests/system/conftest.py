"""Fixtures of the system tests."""

from support.lab_fixtures import lab, pytest_exception_interact, scene

__all__ = ["lab", "pytest_exception_interact", "scene"]
