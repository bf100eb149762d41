"""Load and save trained models, measure their costs, and select device, precision and threads."""
