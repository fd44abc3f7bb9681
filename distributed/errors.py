"""Errors that are written for people: each message is one line with what is wrong, the value, what is allowed, the remedy."""


class UserError(Exception):
    """An error that the user can mend. Entry points print its message alone; other exceptions end in a traceback."""

    exit_code = 2
    agreed: bool = False
    """Whether all learners end with it together, so that none of them has to tell the others."""

    is_failure: bool = True
    """False for the end that was asked for."""

    returns: bool = False
    """Whether the run can go on from its newest checkpoint by itself, as numbers went bad and not the program."""


class UsageError(UserError, ValueError):
    """A setting, an argument or a file that the user gave cannot be used; all learners meet the same one."""


class LearnerError(UserError, RuntimeError):
    """A UsageError of one learner after the start: other learners need not have it."""
