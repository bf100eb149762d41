"""Networks on real tensors. They know nothing of MRI; `to_real` and `to_complex` are the only way in and out."""

from __future__ import annotations

from mrirecon.networks.cnn import ConvStack
from mrirecon.networks.crossing import apply_network, channels_last, to_complex, to_real, zero_init_output
from mrirecon.networks.invertible import InvertibleNet
from mrirecon.networks.recurrent import RecurrentNet
from mrirecon.networks.unet import NormUnet, Unet

__all__ = [
    "ConvStack",
    "InvertibleNet",
    "NormUnet",
    "RecurrentNet",
    "Unet",
    "apply_network",
    "channels_last",
    "to_complex",
    "to_real",
    "zero_init_output",
]
