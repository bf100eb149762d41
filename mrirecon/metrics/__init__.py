"""Score images: registered metrics, mrirecon's own score, presets of other toolkits, and losses."""

from mrirecon.metrics.arrays import Array, magnitude
from mrirecon.metrics.error import mse, nmse, psnr
from mrirecon.metrics.registry import LOSSES, METRICS, LossTerm, Metric, register_loss, register_metric, score_metrics
from mrirecon.metrics.scoring import Score, least_squares_scale, mean_score, object_mask, score, scores
from mrirecon.metrics.sharpness import gmsd, hfen
from mrirecon.metrics.similarity import WINDOW, ssim, ssim_map

__all__ = [
    "LOSSES",
    "METRICS",
    "WINDOW",
    "Array",
    "LossTerm",
    "Metric",
    "Score",
    "gmsd",
    "hfen",
    "least_squares_scale",
    "magnitude",
    "mean_score",
    "mse",
    "nmse",
    "object_mask",
    "psnr",
    "register_loss",
    "register_metric",
    "score",
    "score_metrics",
    "scores",
    "ssim",
    "ssim_map",
]
