"""From a scan to images: preprocess, choose a method, estimate maps, solve and write; one file or many."""
