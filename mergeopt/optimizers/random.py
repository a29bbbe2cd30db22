"""Uniform random points: the baseline every other optimizer has to beat (Bergstra & Bengio 2012)."""

from mergeopt.optimizers.search import Point, Search


class Random(Search):
    """Uniform in the unit cube, that is log-uniform on a log dimension."""

    def propose(self, number: int) -> Point | None:
        return self.cube.outside(self.rng(number).random(len(self.dimensions)))
