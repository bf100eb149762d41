"""Define networks on real tensors, independent of MRI. `to_real` and `to_complex` convert complex images."""

from __future__ import annotations

from mrirecon.networks.cnn import ConvStack
from mrirecon.networks.complex_channels import apply_network, channels_last, to_complex, to_real, zero_init_output
from mrirecon.networks.conv_gru import ConvGru
from mrirecon.networks.invertible import InvertibleNet
from mrirecon.networks.recurrent import RecurrentNet
from mrirecon.networks.unet import NormUnet, Unet

__all__ = [
    "ConvGru",
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
