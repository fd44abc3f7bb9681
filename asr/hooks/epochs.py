"""The epochs in which a hook acts: papers switch a method on late, or lift it for the last epochs."""


class Epochs:
    """From ``first`` on, up to but without ``until`` (None: to the end); epochs are counted from 0.

    ``key`` is the hook's in the configuration, whose from_epoch and until_epoch these are.

    Raises:
        ValueError: there is no such epoch.
    """

    def __init__(self, key: str, first: int, until: int | None) -> None:
        if until is not None and until <= first:
            raise ValueError(
                f"{key}.until_epoch={until} leaves no epoch from {key}.from_epoch={first} on: set a later one, or null "
                "for all, or leave the hook out"
            )
        self.first = first
        self.until = until

    def __contains__(self, epoch: int) -> bool:
        return epoch >= self.first and (self.until is None or epoch < self.until)
