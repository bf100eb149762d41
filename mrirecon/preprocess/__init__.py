"""What is done to k-space before it is reconstructed, and to images afterwards: pure functions on arrays.

Every function takes and returns NumPy arrays, k-space and images with the coil axis first and spatial axes last, and
leaves what it is given as it is. `mrirecon.reconstruction.preprocess` applies them to a scan, in the order in which
they stand here: repetitions averaged, noise whitened, readout oversampling removed, coils compressed; then, after the
reconstruction, partial Fourier, and echoes combined.
"""
