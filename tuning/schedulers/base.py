"""The interface of schedulers."""

from heliostat.tuning.trials import Decision, Trial


class Scheduler:
    """Stops and pauses trials; this one lets all of them run to their ends."""

    in_rounds = False
    """Whether trials are paused after a round and resumed all together, each with parameters of its own."""

    def report(self, trial: Trial) -> Decision:
        """Decide on the last report in ``trial.reports``.

        Called for all trials, for those of earlier sessions too, and possibly more than once for the same report.
        """
        return Decision.CONTINUE

    def next_round(self) -> list[Trial]:
        """The paused trials that are resumed now; called when no trial runs or waits."""
        return []
