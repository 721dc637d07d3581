"""How long a notebook computes: its parameter `profile`."""

from mamlpp.errors import InputError

PROFILES = ("smoke", "laptop", "gpu", "paper")


def check_profile(profile: str) -> None:
    """Raise `InputError`, with the choices, for any other profile."""
    if profile not in PROFILES:
        raise InputError(f"profile must be one of {', '.join(PROFILES)}, not {profile!r}")
