"""What is said when a file of the policy room is not what it must be."""


class PolicyRefused(Exception):
    """A genesis, policy, address book or signature is refused: which file, which field, what was expected (R8)."""

    def __init__(self, file: str, field: str, expected: str) -> None:
        super().__init__(f"{file}: {field}: {expected}")
        self.file = file
        self.field = field
        self.expected = expected
