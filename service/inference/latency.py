"""How long a batch takes, learnt while serving: seconds = fixed + per_item * items."""

MEMORY = 0.97
"""How much an older batch counts against the next newer one: about thirty are remembered."""


class LatencyModel:
    """A line through the batches of late, by least squares with exponential forgetting.

    Before the first batch it knows nothing and predicts 0, so that nothing is refused for it.
    """

    def __init__(self) -> None:
        self._weight = self._n = self._s = self._nn = self._ns = 0.0

    def observe(self, items: int, duration_s: float) -> None:
        """Learn from a batch of `items` that took `duration_s`."""
        self._weight = MEMORY * self._weight + 1
        self._n = MEMORY * self._n + items
        self._s = MEMORY * self._s + duration_s
        self._nn = MEMORY * self._nn + items * items
        self._ns = MEMORY * self._ns + items * duration_s

    def batch_s(self, items: int) -> float:
        """The time that a batch of `items` should take."""
        fixed_s, item_s = self._line()
        return fixed_s + item_s * items

    def drain_s(self, items: int, max_batch: int) -> float:
        """The time until the last of `items` that wait is answered, in batches of `max_batch`."""
        whole, rest = divmod(items, max_batch)
        return whole * self.batch_s(max_batch) + (self.batch_s(rest) if rest else 0.0)

    def _line(self) -> tuple[float, float]:
        """The fixed time and that of each item, neither below 0."""
        if not self._weight:
            return 0.0, 0.0
        mean_n, mean_s = self._n / self._weight, self._s / self._weight
        spread = self._nn / self._weight - mean_n**2
        # Batches of one size tell nothing of the slope: as if nothing were fixed.
        if spread < 1e-9 * max(1.0, mean_n**2):
            return 0.0, mean_s / mean_n
        item_s = max(0.0, (self._ns / self._weight - mean_n * mean_s) / spread)
        fixed_s = mean_s - item_s * mean_n
        return (fixed_s, item_s) if fixed_s >= 0 else (0.0, mean_s / mean_n)
