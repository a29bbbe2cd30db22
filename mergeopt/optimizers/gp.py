"""GP: a Gaussian process with log expected improvement; the most from few trials in few dimensions.

Costs 0.1-0.5 s per proposal and grows with the cube of the trials, so it is for up to about 150 of them.
"""

from optuna.samplers import BaseSampler, GPSampler

from mergeopt.optimizers.surrogate import Surrogate


class Gp(Surrogate):
    """Optuna's GP sampler; scores are noisy, so the process fits a noise level."""

    def sampler(self, seed: int) -> BaseSampler:
        return GPSampler(seed=seed, n_startup_trials=1, deterministic_objective=False)
