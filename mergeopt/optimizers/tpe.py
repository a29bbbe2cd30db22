"""TPE: models where good and bad points lie, and proposes where their ratio is best (Bergstra et al. 2011).

Cheap, robust, handles noise and constraints; for up to about 20 dimensions.
"""

from optuna.samplers import BaseSampler, TPESampler

from mergeopt.optimizers.surrogate import Surrogate


class Tpe(Surrogate):
    """Optuna's multivariate TPE with constant liar, which keeps a batch apart."""

    def sampler(self, seed: int) -> BaseSampler:
        return TPESampler(
            seed=seed, n_startup_trials=1, n_ei_candidates=24, multivariate=True, group=False, constant_liar=True
        )
