"""What a user can get wrong: a sentence says what was wrong, what was expected, what to do."""


class InputError(Exception):
    """Something given to the kit (a file, a number, an option) cannot be used as it is."""


class InputWarning(UserWarning):
    """Something given to the kit was not what was expected, and the kit goes on without it."""
