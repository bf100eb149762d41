"""mrirecon: accelerated MRI reconstruction, y = M F S x + n."""

__version__ = "0.1.0"
