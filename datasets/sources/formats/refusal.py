"""What is wrong with a file, before it is known which others are wrong too."""


class Refusal(Exception):
    """Some problems of a file, each with its fix."""

    def __init__(self, *problems: tuple[str, str]) -> None:
        super().__init__("; ".join(what for what, _ in problems))
        self.problems = problems
