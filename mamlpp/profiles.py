"""How long a notebook computes: its parameter `profile`."""

import os

from mamlpp.errors import InputError

PROFILES = ("smoke", "laptop", "gpu", "paper")


def check_profile(profile: str) -> None:
    """Raise `InputError`, with the choices, for any other profile."""
    if profile not in PROFILES:
        raise InputError(f"profile must be one of {', '.join(PROFILES)}, not {profile!r}")


def chosen_profile(profile: str) -> str:
    """Return what the environment variable MAMLPP_PROFILE says, or `profile` where it is not set.

    So a server chooses for all notebooks that it shows. Raises `InputError` for an unknown one.
    """
    chosen = os.environ.get("MAMLPP_PROFILE") or profile
    check_profile(chosen)
    return chosen
