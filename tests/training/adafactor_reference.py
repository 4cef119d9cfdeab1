"""Adafactor written out in numpy, one matrix of one layer at a time (arXiv 1804.04235, algorithms 4 and 5)."""

import dataclasses

import numpy as np

from famjax.training.config import Adafactor

_SMALLEST_SQUARE = 1e-30
_SMALLEST_SCALE = 1e-3


@dataclasses.dataclass
class AdafactorReference:
    """The optimizer of one parameter: update() gives what is added to it, without clipping by global norm."""

    config: Adafactor
    rate: float
    decays: bool

    def __post_init__(self):
        self.t, self.rows, self.columns, self.full, self.moment = 0, 0.0, 0.0, 0.0, 0.0

    def update(self, gradient, parameter):
        """One step."""
        self.t += 1
        square = gradient.astype(np.float64) ** 2 + _SMALLEST_SQUARE
        factored = gradient.ndim == 2 and min(gradient.shape) >= self.config.min_dim_size_to_factor
        if factored:
            self.rows = self._second_moment(self.rows, square.mean(axis=1, keepdims=True))
            self.columns = self._second_moment(self.columns, square.mean(axis=0, keepdims=True))
            estimate = self.rows @ self.columns / self.rows.mean()
        else:
            self.full = self._second_moment(self.full, square)
            estimate = self.full
        direction = gradient / np.sqrt(estimate)
        if self.config.clipping_threshold is not None:
            direction /= max(1.0, _rms(direction) / self.config.clipping_threshold)
        if self.config.multiply_by_parameter_scale:
            direction *= max(_rms(parameter), _SMALLEST_SCALE)
        if self.config.beta1 is not None:
            self.moment = self.config.beta1 * self.moment + (1 - self.config.beta1) * direction
            direction = self.moment
        decay = self.config.weight_decay if self.decays else 0.0
        return -self.rate * (direction + decay * parameter)

    def _second_moment(self, old, new):
        """With beta2: the average's bias corrected as Adam does; the raw average is rebuilt from the corrected one."""
        if self.config.beta2 is None:
            decay = 1 - self.t**-self.config.decay_exponent
            return decay * old + (1 - decay) * new
        beta2 = self.config.beta2
        raw = beta2 * old * (1 - beta2 ** (self.t - 1)) + (1 - beta2) * new
        return raw / (1 - beta2**self.t)


def _rms(array):
    return np.sqrt(np.mean(array.astype(np.float64) ** 2))
